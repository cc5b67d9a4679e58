"""Weights and masks: the axes of the input that theirs stand for, and the product of both."""

from collections.abc import Sequence
from typing import Any

from batchnorm.errors import format_error

__all__ = ["FIRST_AXES", "check_fit", "multiply"]

# Why weights do not fit and what to do, if their axes stand for the first ones of the input.
FIRST_AXES = (
    "The axes of weights stand for the first axes of the input, and each must have the same size or 1",
    "Pass one weight per example, [batch], or weights that broadcast to the input",
)


def check_fit(
    name: str,
    given: Sequence[Any],
    shape: Sequence[Any],
    places: Sequence[int],
    rule: tuple[str, str],
    *,
    all_places: bool = False,
) -> tuple[Any, ...]:
    """The shape of the input's rank to give to an array of shape `given`: 1 on the axes that it lacks.

    Args:
        name: what the array is called, with its article.
        given: its shape; sizes that are not ints are unknown, and fit.
        shape: the input's shape.
        places: the axes of the input that the array's stand for, in order.
        rule: what must hold, and what to pass.
        all_places: whether the array must have all of these axes, rather than at least the first.

    Raises:
        ValueError: the array has too many or too few axes, or one of another size than the input's, or 1.
    """
    full: list[Any] = [1] * len(shape)
    fits = len(given) == len(places) if all_places else 0 < len(given) <= len(places)
    for size, axis in zip(given, places, strict=False):
        known = isinstance(size, int) and isinstance(shape[axis], int)
        fits = fits and (not known or size in (1, shape[axis]))
        full[axis] = size
    if not fits:
        raise ValueError(
            format_error(f"{name} of shape {tuple(given)} came with an input of shape {tuple(shape)}", *rule)
        )
    return tuple(full)


def multiply(mask: Any, weights: Any) -> Any:
    """The product of those that are given, or None."""
    if mask is None or weights is None:
        return weights if mask is None else mask
    return mask * weights
