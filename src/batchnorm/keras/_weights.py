"""What a call takes besides its inputs: the mask and the sample weights as one array, and the adjustment."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from batchnorm._core.adjustment import Adjustment
from batchnorm._faces.adjustment import call_adjustment, check_dtype
from batchnorm._faces.weights import FIRST_AXES, check_fit, check_values, multiply

__all__ = ["adjustment_for", "as_float", "as_tensor", "check_weights", "merge_weights", "statistics_dtype"]

Tensor = Any
OF_MASKS = (
    "A mask has the shape of the inputs without the last axis",
    "Pass a mask with one axis less than the inputs",
)


def as_tensor(x: Any, dtype: str) -> Any:
    """A NumPy array as a tensor, floats of this dtype: `call` and stateless_call do not convert, as `__call__` does."""
    if not isinstance(x, np.ndarray):
        return x
    return keras.ops.convert_to_tensor(x, dtype if np.issubdtype(x.dtype, np.floating) else None)


def as_float(x: Tensor) -> Tensor:
    """x, or the same numbers as floats."""
    return x if keras.backend.is_float_dtype(x.dtype) else keras.ops.cast(x, statistics_dtype(x))


def statistics_dtype(x: Tensor) -> str:
    """The dtype in which statistics of x are taken."""
    # Keras' own rule for mixing dtypes makes float32 of float64 on some backends.
    return "float64" if keras.backend.standardize_dtype(x.dtype) == "float64" else "float32"


def check_weights(inputs: Tensor, mask: Tensor | None, sample_weight: Tensor | None) -> None:
    """Refuse a mask or weights that do not fit the inputs, and negative or NaN weights, at inference as well."""
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


def adjustment_for(function: Callable[[Any], Any], shape: Any, rank: int, dtype: str) -> Adjustment[Any]:
    """The factor and the offset for a batch of this shape, as tensors of the statistics' dtype."""

    def convert(value: Any) -> Any:
        if keras.ops.is_tensor(value):
            check_dtype(keras.backend.standardize_dtype(value.dtype), dtype)
        return keras.ops.convert_to_tensor(value, dtype)

    return call_adjustment(function, shape, rank, convert)
