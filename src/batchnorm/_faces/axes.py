"""Axes and group sizes as Python ints."""

import operator
from collections.abc import Callable
from typing import Any

from batchnorm.errors import format_error

__all__ = ["axes_of", "read_axis", "read_size"]


def read_axis(
    axis: Any, index: Callable[[Any], int] = operator.index, sequences: tuple[type, ...] = (list, tuple)
) -> int | tuple[int, ...]:
    """The axis as an int, or several as a tuple, in the order in which they were written.

    Args:
        axis: the argument.
        index: makes an int of one axis, or raises TypeError.
        sequences: types that hold several axes.

    Raises:
        TypeError: an axis is not an int.
    """
    several = isinstance(axis, sequences)
    found: list[int] = []
    for each in axis if several else (axis,):
        try:
            found.append(index(each))
        except TypeError:
            raise TypeError(
                format_error(
                    f"axis={axis!r} was asked for",
                    f"An axis is named by an int, and {each!r} is a {type(each).__name__}",
                    "Pass an int such as -1, or a list of ints such as [1, 3]",
                )
            ) from None
    return tuple(found) if several else found[0]


def axes_of(axis: Any) -> tuple[int, ...]:
    """The axes as a tuple, whether there is one or several."""
    return (axis,) if isinstance(axis, int) else tuple(axis)


def read_size(size: Any) -> Any:
    """A ghost batch size: NumPy's ints become Python's, and what is not an int is left for `Ghost` to refuse."""
    return operator.index(size) if hasattr(size, "__index__") and not isinstance(size, bool) else size
