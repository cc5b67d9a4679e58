"""NumPy's functions for what is computed per channel of a step whose large arrays are PyTorch's.

The arrays have few numbers, so that what a call costs is all there is: each function takes the short way first.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from batchnorm._engines.numpy.ops import as_float, shape, sqrt, stop_gradient, transpose, where
from batchnorm._engines.torch.ops import dtype, stat_dtype

__all__ = [
    "as_float",
    "as_tensor",
    "broadcast_to",
    "cast",
    "dtype",
    "lower",
    "maximum",
    "minimum",
    "reshape",
    "shape",
    "sqrt",
    "stat_dtype",
    "stop_gradient",
    "sum",
    "transpose",
    "where",
    "zeros_like",
]

Array = Any


def lower(value: Any) -> Any:
    """A tensor as NumPy's array in the same memory; anything else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().numpy() if value.requires_grad else value.numpy()


def as_tensor(value: Any) -> Any:
    """An array as PyTorch's tensor in the same memory; anything else as it is."""
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def maximum(x: Array, y: Any) -> Array:
    """Bounds that follow a schedule may be tensors."""
    return np.maximum(x, lower(y))


def minimum(x: Array, y: Any) -> Array:
    return np.minimum(x, lower(y))


def sum(x: Array, axes: Sequence[int]) -> Array:
    return x[0] if tuple(axes) == (0,) and len(x) == 1 else np.asarray(np.sum(x, axis=tuple(axes)))


def zeros_like(x: Array) -> Array:
    return np.zeros(x.shape, x.dtype)


def reshape(x: Array, shape: Sequence[int]) -> Array:
    return x.reshape(shape)


def broadcast_to(x: Array, shape: Sequence[int]) -> Array:
    if x.shape == shape:
        return x
    return x[None] if (1, *x.shape) == shape else np.broadcast_to(x, tuple(shape))


def cast(x: Array, dtype: Any) -> Array:
    return x if x.dtype == dtype else x.astype(dtype)
