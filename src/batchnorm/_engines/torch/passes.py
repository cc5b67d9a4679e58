"""The PyTorch engine: the CPU kernels if they can be used, otherwise PyTorch's own, otherwise the composed passes.

A step on the CPU kernels has an engine of its own, in `numpy_stats`; this one serves all other steps. If the program is
traced or transformed, every pass is the composed one, which PyTorch can differentiate, compile and export; but a plain
step on large inputs compiles to one operation of ours.
"""

from dataclasses import dataclass
from typing import Any

import torch

from batchnorm._core.composed import Composed, pull_through
from batchnorm._core.engine import Engine, Epilogue, Inputs, Moments, Saved
from batchnorm._core.epilogue import follow
from batchnorm._engines.torch import aten, cpu_kernels, numpy_stats, ops
from batchnorm._engines.torch.autodiff import differentiable
from batchnorm._engines.torch.composed import PlainOperations, composed
from batchnorm._engines.torch.custom_op import train_as_operation
from batchnorm._engines.torch.dispatch import prefers_custom_op
from batchnorm.layout import Layout

__all__ = ["engine"]

Tensor = torch.Tensor


@dataclass(frozen=True)
class PyTorch(PlainOperations):
    """The engine of all steps but those on the CPU kernels."""

    @property
    def composed(self) -> Composed[Any]:
        return composed

    def specialize(self, layout: Layout, inputs: Inputs[Tensor]) -> Engine[Any] | None:
        """The engine on the CPU kernels, if they can be used."""
        return numpy_stats.find(layout, inputs)

    def moments(self, x: Tensor, weights: Tensor | None, layout: Layout) -> Moments[Tensor]:
        """Mean and mean squared deviation, in PyTorch's own two passes if there are no weights."""
        # Of tensors without numbers PyTorch's sums have shapes, and its two passes have none.
        if weights is not None or x.is_meta or not aten.fits(x, layout):
            return super().moments(x, weights, layout)
        return aten.statistics(x, layout)

    def fused_train(
        self,
        x: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        epsilon: float,
        layout: Layout,
        epilogue: Epilogue[Tensor] | None = None,
    ) -> tuple[Tensor, Moments[Tensor], Tensor] | None:
        if prefers_custom_op(x):
            return train_as_operation(x, gamma, beta, epsilon, layout, epilogue)
        if epilogue is not None and x.dtype in ops.NARROW:
            return None  # PyTorch's kernel would round before the activation
        done = aten.fused_train(x, gamma, beta, epsilon, layout)
        return done if done is None else (follow(ops, done[0], epilogue), *done[1:])

    def fused_infer(
        self,
        x: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        epsilon: float,
        layout: Layout,
        epilogue: Epilogue[Tensor] | None = None,
    ) -> Tensor | None:
        """By the CPU kernel in CPU memory; otherwise by PyTorch's operation, which exporters know.

        On a CPU that operation multiplies before it subtracts, which loses digits if the mean is far from zero.
        """
        if cpu_kernels.prefers_operation(x):
            y = aten.fused_infer(x, gamma, beta, mean, variance, epsilon, layout)
        else:
            y = cpu_kernels.infer(x, gamma, beta, mean, variance, epsilon, layout.axes)
        return None if y is None else follow(ops, y, epilogue)

    def fused_gradients(
        self,
        dy: Tensor,
        x: Tensor,
        saved: Saved[Tensor],
        epsilon: float,
        layout: Layout,
        epilogue: Epilogue[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None] | None:
        if not aten.fits(x, layout):
            return None
        if epilogue is not None:
            dy = pull_through(ops, dy, x, saved.center, layout, epilogue)
        pulled = None if epilogue is None else dy.to(x.dtype)
        return *aten.fused_gradients(dy, x, saved, epsilon, layout), pulled


engine = PyTorch(composed.ops, differentiable, composed.add_up)
