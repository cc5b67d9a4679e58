"""NumPy's functions for what is computed per channel of a step whose large arrays are PyTorch's.

The arrays are small, so the overhead of a call is what counts: each function here tries the short way first.
"""

import ctypes
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

# All functions that are not redefined below.
from batchnorm._engines.numpy.ops import *  # noqa: F403  # pyright: ignore[reportAssignmentType]
from batchnorm._engines.torch.ops import dtype as dtype
from batchnorm._engines.torch.ops import stat_dtype as stat_dtype

Array = Any

_DTYPES = {
    torch.float32: np.dtype("float32"),
    torch.float64: np.dtype("float64"),
    torch.bool: np.dtype("bool"),
}


class _Memory(ctypes.c_char * sys.maxsize):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass]
    """Memory that starts at an address and has no end, and the tensor that owns it."""

    __slots__ = ("owner",)


def as_numpy(value: Any) -> Any:
    """A dense tensor as NumPy's array in the same memory; anything else as it is.

    Made from the address: `Tensor.numpy` would mark the storage as not resizable, but FSDP resizes the storage of
    parameters; and it is no faster.
    """
    if not isinstance(value, torch.Tensor):
        return value
    dtype = _DTYPES.get(value.dtype)
    if dtype is None or not value.is_contiguous():
        # An integer bound, or a statistic with gaps in memory: these are only read.
        return value.detach().clone(memory_format=torch.contiguous_format).numpy()
    memory: Any = _Memory.from_address(value.data_ptr())
    memory.owner = value
    return np.ndarray(value.shape, dtype, memory)


def as_tensor(value: Any) -> Any:
    """An array as PyTorch's tensor in the same memory; anything else as it is."""
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def maximum(x: Array, y: Any) -> Array:
    """Bounds that follow a schedule may be tensors."""
    return np.maximum(x, as_numpy(y))


def minimum(x: Array, y: Any) -> Array:
    return np.minimum(x, as_numpy(y))


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
