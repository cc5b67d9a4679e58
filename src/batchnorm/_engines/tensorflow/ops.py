"""TensorFlow's spelling of the functions that the core and the composed passes use; sizes may be unknown."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import tensorflow as tf

from batchnorm._engines.tensorflow.context import is_cpu

__all__ = [
    "activation",
    "append_zeros",
    "as_float",
    "broadcast_to",
    "cast",
    "cumulate",
    "divide",
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
    "sum_in_chains",
    "tanh",
    "transpose",
    "where",
    "zeros_like",
]

# How many rows a CPU sums faster by multiplying by ones; over more, rounding errors would pile up.
SHORT = range(2, 1025)
# Dimensions that TensorFlow repeats a value along at once, at most, counting neighbors as one.
MOST_BROADCAST = 5

sqrt = tf.sqrt
exp = tf.exp
tanh = tf.tanh
sigmoid = tf.sigmoid
erfc = tf.math.erfc
maximum = tf.maximum
minimum = tf.minimum
zeros_like: Any = tf.zeros_like
stop_gradient = tf.stop_gradient


def cast(x: Any, dtype: Any) -> Any:
    # In eager mode finding out that there is nothing to do takes TensorFlow as long as a small sum.
    return x if isinstance(x, tf.Tensor) and x.dtype == dtype else tf.cast(x, dtype)


def where(condition: Any, x: Any, y: Any) -> Any:
    # A Python number takes the dtype of the other branch, which tf.where alone would not do.
    known = x if tf.is_tensor(x) else y
    x, y = (tf.convert_to_tensor(value, known.dtype) for value in (x, y))
    return tf.where(condition, x, y)


# Not gelu and leaky_relu: TensorFlow rounds their constants to 32 bits, for numbers of 64 as well.
_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
    "silu": tf.nn.silu,
    "sigmoid": tf.sigmoid,
    "tanh": tf.tanh,
}


def activation(name: str, slope: float) -> Callable[[Any], Any] | None:
    del slope
    return _ACTIVATIONS.get(name)


def sum(x: Any, axes: Sequence[int]) -> Any:
    if tuple(axes) == (0,) and x.shape.rank == 2 and x.shape[0] == 1 and tf.executing_eagerly():
        return _without_first(x)
    if tuple(axes) == (0,) and x.shape.rank == 2 and (x.shape[0] or 0) in SHORT and is_cpu():
        return tf.matmul(tf.ones([1, x.shape[0]], x.dtype), x)[0]
    # One axis at a time, the last one first: for several at once TensorFlow makes a single chain of additions, which
    # takes longer and has a far larger error.
    for axis in sorted(axes, reverse=True):
        x = sum_in_chains(x, axis)
    return x


def sum_in_chains(x: Any, axis: int) -> Any:
    """Sums along one axis: of numbers far apart first, if a single chain of additions would be inaccurate."""
    length = x.shape.as_list()[axis]  # an int, even if TensorFlow 1 would give a Dimension
    # Along the last axis TensorFlow adds up several chains by itself.
    parts = 1 if length is None or axis == x.shape.rank - 1 else _divisor(length)
    if parts > 1:
        x = tf.reduce_sum(divide(x, axis, parts), axis)
    return tf.reduce_sum(x, axis)


def divide(x: Any, axis: int, parts: int) -> Any:
    """x with an axis of that many parts before one of their length."""
    sizes = shape(x)
    return reshape(x, (*sizes[:axis], parts, sizes[axis] // parts, *sizes[axis + 1 :]))


def transpose(x: Any, order: Sequence[int]) -> Any:
    return tf.transpose(x, list(order))


def reshape(x: Any, shape: Sequence[Any]) -> Any:
    if _is_known(shape) and x.shape.rank is not None:
        own, wanted = x.shape.as_list(), list(shape)
        if own == wanted:
            return x
        if own == [1, *wanted] and tf.executing_eagerly():
            return _without_first(x)
    known = [size for size in shape if isinstance(size, int)]
    if len(known) == len(shape) - 1 and all(size > 0 for size in known):
        # One unknown size needs no arithmetic in the graph.
        shape = [size if isinstance(size, int) else -1 for size in shape]
    return tf.reshape(x, list(shape))


def broadcast_to(x: Any, shape: Sequence[Any]) -> Any:
    if _is_known(shape) and x.shape == tuple(shape):
        return x
    if len(shape) > MOST_BROADCAST and x.shape.rank == len(shape):
        some = len(shape) // 2
        x = tf.broadcast_to(x, [*tf.unstack(tf.shape(x))[:some], *shape[some:]])
    return tf.broadcast_to(x, list(shape))


def cumulate(x: Any) -> Any:
    return tf.cumsum(x, axis=0)


def first(x: Any, count: Any) -> Any:
    return x[:count]


def append_zeros(x: Any, count: Any) -> Any:
    return tf.pad(x, [[0, count], *[[0, 0]] * (x.shape.rank - 1)])


def shape(x: Any) -> tuple[Any, ...]:
    """Sizes: ints where known, scalar tensors elsewhere."""
    known = x.shape.as_list()
    if None not in known:
        return tuple(known)
    sizes = tf.shape(x)
    return tuple(sizes[axis] if size is None else size for axis, size in enumerate(known))


def dtype(x: Any) -> Any:
    return x.dtype


def stat_dtype(x: Any) -> Any:
    """float32 for 16-bit floats, else the dtype of x."""
    return tf.float32 if x.dtype in (tf.float16, tf.bfloat16) else x.dtype


def as_float(size: Any, dtype: Any) -> Any:
    return float(size) if isinstance(size, int) else tf.cast(size, dtype)


@lru_cache(maxsize=1024)
def _divisor(length: int) -> int:
    """The largest divisor that is still a short chain, if the length is a long one; else 1."""
    return 1 if length < SHORT.stop else max(d for d in range(1, SHORT.stop) if length % d == 0)


def _without_first(x: Any) -> Any:
    """[1, ...] as [...]. In eager mode `tf.reshape` would make a tensor of the shape first, and be slower for it."""
    return tf.raw_ops.Squeeze(input=x, axis=[0])


def _is_known(shape: Sequence[Any]) -> bool:
    return all(isinstance(size, int) and size >= 0 for size in shape)
