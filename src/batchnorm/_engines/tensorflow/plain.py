"""TensorFlow's composed engine, whose sums are chains of additions that lose the digits of a mean far from zero."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from batchnorm._core.composed import Composed, moments
from batchnorm._core.engine import Moments
from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.differentiable import differentiable
from batchnorm._engines.tensorflow.replicas import sum_over_replicas
from batchnorm.layout import Layout

__all__ = ["plain"]

Tensor = Any


@dataclass(frozen=True)
class Plain(Composed[Any]):
    """The composed engine, with a number near each mean subtracted first. It is one of the inputs, which no compiler
    can round in two ways."""

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


plain: Composed[Any] = Plain(ops, differentiable, sum_over_replicas)
