"""The passes that reduce, written so that XLA computes each sum in one pass over its inputs.

On a CPU, XLA compiles a sum and the arithmetic before it into one kernel. But whatever two such kernels share, even if
only the broadcast of a mean, it first writes to an array of the input's size, and that takes longer than the sums. So
no two sums here share a factor: if one subtracts the center, the other adds its negative, which the compiler treats as
a different value. On other devices this changes nothing.

XLA also recomputes the last operations of a mean in each kernel that reads it, rounding differently in each; for a mean
of a million the difference is a tenth of the deviation. So the center is one of the inputs, the largest, which involves
no rounding.
"""

from dataclasses import dataclass
from numbers import Real
from typing import Any

import jax.numpy as jnp

from batchnorm._core.affine import fold
from batchnorm._core.composed import Composed, apply, moments, share, to_view
from batchnorm._core.engine import A, Epilogue, Inputs, Moments
from batchnorm._core.moments import finite
from batchnorm._engines.jax.sharded import sharded_by_compiler
from batchnorm.layout import Layout

__all__ = ["Fusing"]


@dataclass(frozen=True)
class Fusing(Composed[A]):
    """The composed engine with reductions that share no factor, for arrays that may be sharded."""

    @property
    def composed(self) -> "Fusing[A]":
        return Fusing(self.ops, self.differentiate, self.add_up)

    def moments(self, x: A, weights: A | None, layout: Layout) -> Moments[A]:
        ops = self.ops

        def largest(viewed: A, weights: A | None) -> A:
            viewed = ops.stop_gradient(viewed)
            counted = viewed if weights is None else ops.where(weights > 0.0, viewed, -jnp.inf)
            return jnp.max(counted, layout.reduced, initial=-jnp.inf)  # pyright: ignore[reportArgumentType, reportReturnType]

        if weights is not None:
            return moments(ops, x, weights, layout, largest)
        dtype = ops.stat_dtype(x)
        viewed = ops.cast(to_view(ops, x, layout), dtype)
        total = ops.as_float(layout.count, dtype)
        portion = share(ops, total)
        center = ops.stop_gradient(finite(ops, largest(viewed, None)))
        offset = ops.sum(viewed - ops.reshape(center, layout.stat_view), layout.reduced) * portion
        near = viewed + ops.reshape(-center, layout.stat_view)
        centered = near - ops.reshape(offset, layout.stat_view)
        variance = ops.sum(centered * centered, layout.reduced) * portion
        shape = (layout.ghosts, layout.channels)
        parts = (ops.reshape(value, shape) for value in (center + offset, variance, center, offset))
        return Moments(total, total, *parts)

    def grad_sums(self, dy: A, x: A, mean: A, layout: Layout) -> tuple[A, A]:
        ops = self.ops
        dtype, shape = ops.stat_dtype(x), (layout.ghosts, layout.channels)
        dy, viewed = (ops.cast(to_view(ops, value, layout), dtype) for value in (dy, x))
        centered = viewed + ops.reshape(-mean, layout.stat_view)
        first, second = ops.sum(dy, layout.reduced), ops.sum(dy * centered, layout.reduced)
        return ops.reshape(first, shape), ops.reshape(second, shape)

    def fused_infer(
        self,
        x: A,
        gamma: A | None,
        beta: A | None,
        mean: A,
        variance: A,
        epsilon: Any,
        layout: Layout,
        epilogue: Epilogue[A] | None = None,
    ) -> A:
        """In plain operations, which XLA fuses with those before and after, so a kernel would gain nothing."""

        def function(inputs: Inputs[A]) -> A:
            x, gamma, beta, _, state, scalars, residual = inputs
            own: Any = epsilon if scalars is None else scalars["epsilon"]
            scale, shift = fold(self.ops, own, state["variance"], None, None, None, gamma, beta, layout)
            after = None if epilogue is None else Epilogue(epilogue.activation, residual)
            return apply(self.ops, x, state["mean"], scale, shift, layout, after)

        scalars = None if isinstance(epsilon, Real) else {"epsilon": epsilon}
        residual = None if epilogue is None else epilogue.residual
        inputs = Inputs(x, gamma, beta, None, {"mean": mean, "variance": variance}, scalars, residual)
        return sharded_by_compiler(function, inputs, with_statistics=False)
