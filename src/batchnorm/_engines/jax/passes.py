"""The passes that reduce, written so that XLA makes each sum one reading of its inputs.

On a CPU, XLA turns a sum and the arithmetic before it into one kernel, but what two such kernels share it computes
into an array of the input's size first, be it only the broadcast of a mean; and writing such an array takes longer
than the sums. So no two sums here share a factor: where one subtracts the mean, the other adds its negative, which
is a value of its own to the compiler. On other devices this changes nothing.
"""

from dataclasses import dataclass

from batchnorm._engines.composed import Composed, finite, moments, share, to_view
from batchnorm._engines.protocol import A, Moments
from batchnorm.layout import Layout

__all__ = ["Fusing"]


@dataclass(frozen=True)
class Fusing(Composed[A]):
    """The composed engine with reductions that share nothing."""

    @property
    def composed(self) -> Composed[A]:
        return Composed(self.ops, self.differentiable, self.sum_over_replicas)

    def moments(self, x: A, weights: A | None, layout: Layout) -> Moments[A]:
        ops = self.ops
        if weights is not None:
            return moments(ops, x, weights, layout)
        dtype = ops.stat_dtype(x)
        viewed = ops.cast(to_view(ops, x, layout), dtype)
        total = ops.as_float(layout.count, dtype)
        portion = share(ops, total)
        mean = ops.sum(viewed, layout.reduced) * portion
        # The first mean is off by rounding; the mean of what is left corrects it, and the variance with it.
        rest = ops.sum(viewed + ops.reshape(-mean, layout.stat_view), layout.reduced) * portion
        centered = viewed - ops.reshape(mean, layout.stat_view)
        variance = ops.maximum(ops.sum(centered * centered, layout.reduced) * portion - rest * rest, 0.0)
        shape = (layout.ghosts, layout.channels)
        return Moments(
            total, total, ops.reshape(mean + finite(ops, rest), shape), ops.reshape(variance, shape)
        )

    def grad_sums(self, dy: A, x: A, mean: A, layout: Layout) -> tuple[A, A]:
        ops = self.ops
        dtype, shape = ops.stat_dtype(x), (layout.ghosts, layout.channels)
        dy, viewed = (ops.cast(to_view(ops, value, layout), dtype) for value in (dy, x))
        centered = viewed + ops.reshape(-mean, layout.stat_view)
        first, second = ops.sum(dy, layout.reduced), ops.sum(dy * centered, layout.reduced)
        return ops.reshape(first, shape), ops.reshape(second, shape)
