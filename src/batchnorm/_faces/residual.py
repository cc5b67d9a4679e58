"""A residual, which is added to the normalized numbers before the activation: what it must be like."""

from collections.abc import Sequence
from typing import Any

from batchnorm.errors import format_error

__all__ = ["check_same_shape"]


def check_same_shape(given: Sequence[Any], shape: Sequence[Any]) -> None:
    """Refuse a residual of another shape than the input's; sizes that are not ints are unknown, and fit.

    Raises:
        ValueError: the shapes differ.
    """
    pairs = zip(given, shape, strict=False)
    known = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
    if len(given) != len(shape) or any(a != b for a, b in known):
        raise ValueError(
            format_error(
                f"A residual of shape {tuple(given)} came with an input of shape {tuple(shape)}",
                "It is added to every number of the result, so both have one shape",
                "Pass a residual of the shape of the input; broadcast a smaller one first",
            )
        )
