"""The mask and the sample weights of a call as one array of weights."""

from typing import Any

import keras

from batchnorm._faces.weights import FIRST_AXES, check_fit, check_values, multiply

__all__ = ["check_weights", "merge_weights"]

Tensor = Any
OF_MASKS = (
    "A mask has the shape of the inputs without the last axis",
    "Pass a mask with one axis less than the inputs",
)


def check_weights(inputs: Tensor, mask: Tensor | None, sample_weight: Tensor | None) -> None:
    """Refuse a mask or weights that do not fit the inputs, and weights that mean nothing, at inference as well."""
    shape = tuple(inputs.shape)
    places = range(len(shape))
    if mask is not None:
        check_fit("A mask", tuple(mask.shape), shape, places[:-1], OF_MASKS, all_places=True)
    if sample_weight is not None:
        check_fit("A sample_weight", tuple(sample_weight.shape), shape, places, FIRST_AXES)
        check_values("A sample_weight", sample_weight)


def merge_weights(
    inputs: Tensor, mask: Tensor | None, sample_weight: Tensor | None, dtype: str
) -> Tensor | None:
    """Weights of the inputs' rank that broadcast to them, or None; a masked position weighs nothing."""
    masked = weights = None
    if mask is not None:
        counts: Tensor = mask
        if keras.backend.standardize_dtype(counts.dtype) != "bool":
            counts = keras.ops.cast(counts, "bool")
        masked = keras.ops.cast(counts[..., None], dtype)
    if sample_weight is not None:
        weights: Tensor = keras.ops.cast(sample_weight, dtype)
        for _ in range(len(inputs.shape) - len(weights.shape)):
            weights = keras.ops.expand_dims(weights, -1)
    return multiply(masked, weights)
