"""A call of the layer on rows of different lengths: every number in them counts, as in a dense tensor."""

from collections.abc import Callable
from typing import Any

from batchnorm._faces.weights import multiply
from batchnorm.keras._backend import backend
from batchnorm.keras._weights import merge_weights, statistics_dtype

__all__ = ["call_ragged"]

Tensor = Any


def call_ragged(
    layer: Any,
    dense_call: Callable[..., Tensor],
    inputs: Tensor,
    training: Any,
    mask: Tensor | None,
    sample_weight: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    """The result of `dense_call(x, training, mask, sample_weight, residual)` on the same numbers, ragged again."""
    tools = backend()
    if residual is not None:
        residual = tools.same_rows(residual, inputs)
    by_row = layer.virtual_batch_size is not None or layer.adjustment is not None
    by_row = by_row or mask is not None or sample_weight is not None
    if not by_row and min(layer.input_spec.axes) > inputs.ragged_rank:
        dense, restore = tools.flatten(inputs)
        added = None if residual is None else tools.flatten(residual)[0]
        return restore(dense_call(dense, training, None, None, added))
    # Options that act on rows, or on positions in them, need rows of equal length, and weights that leave the
    # padding out.
    dense, inside, restore = tools.pad(inputs)
    dtype = statistics_dtype(dense)
    mask, sample_weight = tools.pad_weights(mask, sample_weight)
    given = merge_weights(dense, mask, sample_weight, dtype)
    weights = merge_weights(dense, None, inside, dtype)
    added = None if residual is None else tools.pad(residual)[0]
    return restore(dense_call(dense, training, None, multiply(given, weights), added))
