"""Weights and masks: which axes of the input theirs stand for, which values are valid, and the product of both."""

from collections.abc import Sequence
from typing import Any

from batchnorm._engines.lookup import host_values
from batchnorm.errors import format_error

__all__ = ["FIRST_AXES", "check_fit", "check_values", "multiply"]

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


def check_values(name: str, weights: Any) -> None:
    """Refuse weights that are negative or NaN, if they are known: no program should wait for this check or compile it.

    They would do harm silently: if the sum is negative or NaN, the batch counts as one without weight.

    Raises:
        ValueError: one is negative or not a number.
    """
    values = host_values(weights)
    if values is None or values.dtype.kind in "bu" or values.size == 0:
        return
    if values.dtype.kind not in "fi":  # NumPy warns of NaN in dtypes that are not its own
        values = values.astype("float32")
    least = values.min()  # NaN if there is one
    if not least >= 0:
        raise ValueError(
            format_error(
                f"{name} containing {least} was given",
                "A weight says how much a number counts in the statistics, so it cannot be negative or NaN",
                "Pass finite numbers that are not negative, and 0 for numbers that should not count",
            )
        )


def multiply(mask: Any, weights: Any) -> Any:
    """The product of those that are given, or None."""
    if mask is None or weights is None:
        return weights if mask is None else mask
    return mask * weights
