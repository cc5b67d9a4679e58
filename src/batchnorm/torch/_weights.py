"""The weight and the mask of a call as one tensor of weights."""

from collections.abc import Sequence

import torch

from batchnorm.errors import refusal

__all__ = ["merge_weights"]

Tensor = torch.Tensor


def merge_weights(
    shape: Sequence[int], axes: Sequence[int], weight: Tensor | None, mask: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """Weights of the input's rank that broadcast to it, or None; a masked position weighs nothing.

    Raises:
        ValueError: one does not fit the input.
    """
    merged = None
    if mask is not None:
        merged = _spread("mask", mask, shape, axes).to(torch.bool).to(dtype)
    if weight is not None:
        given = _spread("weight", weight, shape, axes).to(dtype)
        merged = given if merged is None else merged * given
    return merged


def _spread(name: str, given: Tensor, shape: Sequence[int], axes: Sequence[int]) -> Tensor:
    """Of the input's rank as it is; else its axes are the first of those that are no channel axes."""
    rank = len(shape)
    places = [axis for axis in range(rank) if axis not in axes]
    if given.dim() == rank:
        places = list(range(rank))
    sizes = tuple(given.shape)
    if not 0 < len(sizes) <= len(places) or any(
        size not in (1, shape[axis]) for size, axis in zip(sizes, places, strict=False)
    ):
        raise ValueError(
            refusal(
                f"A {name} of shape {sizes} came with an input of shape {tuple(shape)}",
                "It has the rank of the input and broadcasts to it, or its axes stand for the first axes of the "
                "input that are no channel axes",
                "Pass one number per example, [batch], one per position, [batch, *positions], or one that broadcasts",
            )
        )
    full = [1] * rank
    for size, axis in zip(sizes, places, strict=False):
        full[axis] = size
    return given.reshape(full)
