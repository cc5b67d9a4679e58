"""The weight and the mask of a call as one tensor of weights."""

from collections.abc import Sequence

import torch

from batchnorm._faces.weights import check_fit, check_values, multiply
from batchnorm.errors import format_error

__all__ = ["merge_weights"]

Tensor = torch.Tensor
RULE = (
    "It must have the rank of the input and broadcast to it, or its axes must stand for the first axes of the input "
    "that are not channel axes",
    "Pass one number per example, [batch], one per position, [batch, *positions], or one that broadcasts",
)


def merge_weights(
    shape: Sequence[int], axes: Sequence[int], weight: Tensor | None, mask: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """Weights of the input's rank that broadcast to it, or None; a masked position weighs nothing.

    Raises:
        ValueError: one does not fit the input, or a weight is negative or not a number.
    """
    masked = None if mask is None else _spread("A mask", mask, shape, axes).to(torch.bool).to(dtype)
    weights = None if weight is None else _spread("A weight", weight, shape, axes).to(dtype)
    if weight is not None:
        check_values("A weight", weight)
    return multiply(masked, weights)


def _spread(name: str, given: Tensor, shape: Sequence[int], axes: Sequence[int]) -> Tensor:
    """Of the input's rank as it is; else its axes are the first of those that are no channel axes."""
    if not isinstance(given, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            format_error(
                f"{name} of type {type(given).__name__} was given",
                "It is a tensor, as the input is",
                "Convert it with torch.as_tensor",
            )
        )
    rank = len(shape)
    places = [axis for axis in range(rank) if axis not in axes or given.dim() == rank]
    return given.reshape(check_fit(name, given.shape, shape, places, RULE))
