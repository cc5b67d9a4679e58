"""Sums over the length of a block [rows, length, width]: on a CPU, multiplying by ones is the fastest way.

Each sum reads one column of one row only, so a NaN or an infinity stays where it is.
"""

from typing import Any

import tensorflow as tf

from batchnorm._engines.tensorflow import ops

__all__ = ["sum_length"]

Tensor = Any


def sum_length(z: Tensor) -> Tensor:
    """Σ over the length of a block: [rows, width]."""
    rows, length, width = ops.shape(z)
    if _is_one(length):
        return ops.reshape(z, (rows, width))
    parts = ops.divisor(length) if isinstance(length, int) else 1
    if parts > 1 and not (_is_one(rows) and _is_one(width)):
        # A single chain of so many additions would be inaccurate.
        rest = length // parts
        pieces = (rows * rest, parts, 1) if _is_one(width) else (rows, parts, rest * width)
        return sum_length(ops.reshape(sum_length(ops.reshape(z, pieces)), (rows, rest, width)))
    if _is_one(width):
        z = ops.reshape(z, (rows, length))
        return ops.reshape(tf.reduce_sum(z), (1, 1)) if _is_one(rows) else tf.matmul(z, _ones(z, (length, 1)))
    if _is_one(rows):
        return tf.matmul(_ones(z, (1, length)), ops.reshape(z, (length, width)))
    return ops.reshape(tf.matmul(_ones(z, (rows, 1, length)), z), (rows, width))


def _ones(z: Tensor, shape: tuple[Any, ...]) -> Tensor:
    return tf.ones(tf.stack(shape), z.dtype)


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1
