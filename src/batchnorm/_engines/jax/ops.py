"""JAX's spelling of the functions that the core and the composed passes use."""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

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

# Over more columns than this XLA's sum on a CPU takes ten times as long for each (ghost batches are that wide).
WIDE = 16_384
MOST_PIECES = 64

sqrt = jnp.sqrt
exp = jnp.exp
tanh = jnp.tanh
sigmoid = jax.nn.sigmoid
erfc = jax.scipy.special.erfc
maximum = jnp.maximum
minimum = jnp.minimum
where = jnp.where
zeros_like = jnp.zeros_like
reshape = jnp.reshape
broadcast_to = jnp.broadcast_to
transpose = jnp.transpose
stop_gradient = jax.lax.stop_gradient


_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "hard_tanh": jax.nn.hard_tanh,
    "hard_swish": jax.nn.hard_swish,
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
}


def activation(name: str, slope: float) -> Callable[[Any], Any]:
    if name == "leaky_relu":
        return partial(jax.nn.leaky_relu, negative_slope=slope)
    return _ACTIVATIONS[name]


def sum(x: Any, axes: Sequence[int]) -> Any:
    if tuple(axes) == (0,) and x.ndim > 1 and _is_known(x.shape) and jax.default_backend() == "cpu":
        columns = prod(x.shape[1:])
        if columns > WIDE and x.shape[0] > 1:
            return _sum_wide(jnp.reshape(x, (x.shape[0], columns))).reshape(x.shape[1:])
    return jnp.sum(x, axis=tuple(axes))


def _sum_wide(x: Any) -> Any:
    """Sums down the columns of a wide matrix, piece by piece."""
    columns = x.shape[1]
    width = max(WIDE, -(-columns // MOST_PIECES))
    return jnp.concatenate([jnp.sum(x[:, start : start + width], 0) for start in range(0, columns, width)])


def cast(x: Any, dtype: Any) -> Any:
    return jnp.asarray(x, dtype)


def cumulate(x: Any) -> Any:
    return jnp.cumsum(x, axis=0)


def first(x: Any, count: Any) -> Any:
    return x[:count]


def append_zeros(x: Any, count: Any) -> Any:
    return jnp.concatenate([x, jnp.zeros((count, *x.shape[1:]), x.dtype)])


def shape(x: Any) -> tuple[Any, ...]:
    return x.shape


def dtype(x: Any) -> Any:
    return x.dtype


def stat_dtype(x: Any) -> Any:
    """float32 for 16-bit floats, else the dtype of x."""
    return jnp.dtype(jnp.float32) if x.dtype.itemsize == 2 else x.dtype


def as_float(size: Any, dtype: Any) -> Any:
    return float(size) if isinstance(size, int) else jnp.asarray(size, dtype)


def _is_known(shape: Sequence[Any]) -> bool:
    return all(isinstance(size, int) for size in shape)
