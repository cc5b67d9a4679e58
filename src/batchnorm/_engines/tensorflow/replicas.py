"""Sums over the replicas of TensorFlow's current distribution strategy."""

from typing import Any

import tensorflow as tf

__all__ = ["sum_over_replicas"]


def sum_over_replicas(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Each value summed over all replicas; the values as they are if there is one replica."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    return tuple(context.all_reduce(tf.distribute.ReduceOp.SUM, list(values)))
