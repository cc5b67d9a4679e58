"""TensorFlow's composed engine: plain operations, which run on any device and under any compiler."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from batchnorm._core.composed import Composed, moments
from batchnorm._core.engine import Moments
from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.autodiff import differentiable
from batchnorm.layout import Layout

__all__ = ["PlainOperations", "composed"]

Tensor = Any


@dataclass(frozen=True)
class PlainOperations(Composed[Any]):
    """The composed engine, with a number near each mean subtracted first.

    TensorFlow's sums are chains of additions, which lose the digits of a mean far from zero. The number subtracted is
    one of the inputs, which no compiler can round in two ways.
    """

    def moments(self, x: Tensor, weights: Tensor | None, layout: Layout) -> Moments[Tensor]:
        def near(viewed: Tensor, weights: Tensor | None) -> Tensor:
            if weights is not None:
                # Numbers without weight may have any value.
                lowest = viewed.dtype.min
                largest = tf.reduce_max(tf.where(weights > 0.0, viewed, lowest), list(layout.reduced))
                return tf.where(largest > lowest, largest, 0.0)
            first = [slice(1) if run in layout.reduced else slice(None) for run in range(len(layout.view))]
            return ops.sum(viewed[tuple(first)], layout.reduced)

        return moments(ops, x, weights, layout, near)


def sum_over_replicas(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Each value summed over all replicas; the values as they are if there is one replica."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    return tuple(context.all_reduce(tf.distribute.ReduceOp.SUM, list(values)))


composed: Composed[Any] = PlainOperations(ops, differentiable, sum_over_replicas)
