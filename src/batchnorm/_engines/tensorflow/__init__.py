"""The TensorFlow engine: TensorFlow's own fused operation where it gives the same numbers, else composed passes."""

from typing import Any

import tensorflow as tf

from batchnorm._engines.composed import Composed
from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.differentiable import differentiable

__all__ = ["engine"]


def _sum_over_replicas(values: tuple[Any, ...]) -> tuple[Any, ...]:
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    return tuple(context.all_reduce(tf.distribute.ReduceOp.SUM, list(values)))


engine: Composed[Any] = Composed(ops, differentiable, _sum_over_replicas)  # pyright: ignore[reportArgumentType]
