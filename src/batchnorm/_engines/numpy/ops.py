"""NumPy's spelling of the functions that the core and the composed passes use."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = [
    "activation",
    "append_zeros",
    "as_float",
    "broadcast_to",
    "cast",
    "cumulate",
    "dtype",
    "erfc",
    "exp",
    "first",
    "maximum",
    "minimum",
    "reshape",
    "shape",
    "sigmoid",
    "sqrt",
    "stat_dtype",
    "stop_gradient",
    "sum",
    "tanh",
    "transpose",
    "where",
    "zeros_like",
]

# NumPy declares more of these than a call with arrays needs.
sqrt: Callable[[Any], Any] = np.sqrt
exp: Callable[[Any], Any] = np.exp
tanh: Callable[[Any], Any] = np.tanh
maximum: Callable[[Any, Any], Any] = np.maximum
minimum: Callable[[Any, Any], Any] = np.minimum
where: Callable[[Any, Any, Any], Any] = np.where
zeros_like = np.zeros_like
reshape = np.reshape
broadcast_to = np.broadcast_to
transpose: Callable[[Any, Sequence[int]], Any] = np.transpose
# NumPy has none of its own: number by number, by the C library.
_erfc = np.frompyfunc(math.erfc, 1, 1)


def sum(x: Any, axes: Sequence[int]) -> Any:
    # NumPy sums down columns one number at a time, so rounding errors accumulate, or all go one way.
    if x.dtype == np.float32:
        return np.sum(x, axis=tuple(axes), dtype=np.float64).astype(np.float32)
    return np.sum(x, axis=tuple(axes))


def sigmoid(x: Any) -> Any:
    small = np.exp(-np.abs(x))  # which cannot overflow
    return np.where(x >= 0, 1, small) / (1 + small)


def erfc(x: Any) -> Any:
    return np.asarray(_erfc(x), np.asarray(x).dtype)


def activation(name: str, slope: float) -> None:
    """NumPy has no activations."""
    del name, slope


def stop_gradient(x: Any) -> Any:
    return x


def cast(x: Any, dtype: Any) -> Any:
    return np.asarray(x).astype(dtype, copy=False)


def cumulate(x: Any) -> Any:
    return np.cumsum(x, axis=0)


def first(x: Any, count: Any) -> Any:
    return x[:count]


def append_zeros(x: Any, count: Any) -> Any:
    return np.concatenate([x, np.zeros((count, *x.shape[1:]), x.dtype)])


def shape(x: Any) -> tuple[int, ...]:
    return np.shape(x)


def dtype(x: Any) -> Any:
    return np.asarray(x).dtype


def stat_dtype(x: Any) -> Any:
    """float32 for 16-bit floats (ml_dtypes' bfloat16 among them), else the dtype of x."""
    own = dtype(x)
    return np.dtype(np.float32) if own.itemsize == 2 else own


def as_float(size: int, dtype: Any) -> float:
    del dtype
    return float(size)
