"""JAX's spelling of the functions that the core and the composed passes use."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

__all__ = [
    "as_float",
    "broadcast_to",
    "cast",
    "dtype",
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

sqrt = jnp.sqrt
maximum = jnp.maximum
minimum = jnp.minimum
where = jnp.where
zeros_like = jnp.zeros_like
reshape = jnp.reshape
broadcast_to = jnp.broadcast_to
transpose = jnp.transpose
stop_gradient = jax.lax.stop_gradient


def sum(x: Any, axes: Sequence[int]) -> Any:
    return jnp.sum(x, axis=tuple(axes))


def cast(x: Any, dtype: Any) -> Any:
    return jnp.asarray(x, dtype)


def shape(x: Any) -> tuple[Any, ...]:
    return x.shape


def dtype(x: Any) -> Any:
    return x.dtype


def stat_dtype(x: Any) -> Any:
    """float32 for 16-bit floats, else the dtype of x."""
    return jnp.dtype(jnp.float32) if x.dtype.itemsize == 2 else x.dtype


def as_float(size: Any, dtype: Any) -> Any:
    return float(size) if isinstance(size, int) else jnp.asarray(size, dtype)
