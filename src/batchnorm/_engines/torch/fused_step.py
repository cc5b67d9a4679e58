"""A plain training step and its gradient on the CPU kernels: one call each way, whatever the layout.

`train_natively` is the step of an ordinary program, with an autograd function of its own; compiled programs see the
same step as operations, in `custom_op`.
"""

# Compilers that trace Python cannot evaluate the annotations of functions that are made on the way.
from __future__ import annotations

from typing import Any, NamedTuple

import torch

from batchnorm._core import fused
from batchnorm._core.affine import fold
from batchnorm._engines.torch import aten, cpu_kernels
from batchnorm._engines.torch.composed import composed
from batchnorm._engines.torch.numpy_ops import as_numpy, as_tensor
from batchnorm._engines.torch.numpy_stats import Host
from batchnorm.layout import Layout

__all__ = ["Step", "parameter_gradients", "train_natively"]

Tensor = torch.Tensor


class Step(NamedTuple):
    """What is known of a step besides its arrays.

    Attributes:
        kernels: the kernels for x, or None, and plain operations do the same.
        epsilon: is added to the variance.
        layout: in the order of memory.
    """

    kernels: cpu_kernels.Kernels | None
    epsilon: float
    layout: Layout

    def train(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> tuple[Tensor, Tensor]:
        """y, and mean, rest, variance and scale as one tensor [4, G, C]."""
        dense = self._in_memory(x)
        if self.kernels is None:
            y, moments, scale = fused.train(composed, dense, gamma, beta, self.epsilon, self.layout)
            statistics = torch.stack((moments.center, moments.offset, moments.variance, scale))
            return self._as_it_came(y), statistics
        y = self._room(x)
        given, statistics = cpu_kernels.train_by(
            self.kernels, dense, gamma, beta, self.epsilon, self.layout, y
        )
        return (self._as_it_came(given) if y is None else y), statistics

    def gradients(
        self, dy: Tensor, x: Tensor, gamma: Tensor | None, statistics: Tensor
    ) -> tuple[Tensor, Tensor]:
        """dx, and Σdy and Σdy·x̂ as one tensor [2, G, C]."""
        found = cpu_kernels.find(self.layout, x, dy, statistics)
        dense, dy = self._in_memory(x), self._in_memory(dy)
        if found is None:
            # PyTorch's kernel takes every kind of tensor.
            center, offset, variance, _ = statistics
            dx, *both = aten.backward_of_plain(
                dy, dense, gamma, center, offset, variance, self.epsilon, self.layout
            )
            return self._as_it_came(dx), torch.stack(both)
        dx = self._room(x)
        given, sums = cpu_kernels.gradients_by(
            found, dy, dense, statistics.unbind(), self.epsilon, self.layout, dx
        )
        return (self._as_it_came(given) if dx is None else dx), sums

    def sums(self, dy: Tensor, x: Tensor, gamma: Tensor | None, statistics: Tensor) -> Tensor:
        """Σdy and Σdy·x̂ alone, if dx is not requested."""
        found = cpu_kernels.find(self.layout, x, dy, statistics)
        if found is None:
            return self.gradients(dy, x, gamma, statistics)[1]
        mean, rest, variance, _ = statistics
        dense, dy = self._in_memory(x), self._in_memory(dy)
        both = Host(found, self.layout.reordered).grad_sums(dy, dense, as_numpy(mean), self.layout)
        sums = torch.stack([as_tensor(value) for value in both])
        sums[1] = (sums[1] - rest * sums[0]) * torch.rsqrt(variance + self.epsilon)
        return sums

    def differentiable_gradients(self, dy: Tensor, x: Tensor, gamma: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same, to be derived again to any order: PyTorch's own kernel is wrong from the third on."""
        dense, dy, layout = self._in_memory(x), self._in_memory(dy), self.layout
        _, _, _, variance, center, offset = composed.moments(dense, None, layout)
        gamma = None if gamma is None else gamma.to(variance.dtype)
        scale, _ = fold(composed.ops, self.epsilon, variance, offset, None, None, gamma, None, layout)
        known = center, offset, variance, scale
        dx, *both = fused.gradients(composed, dy, dense, *known, self.epsilon, layout)
        return self._as_it_came(dx), torch.stack(both)

    def _in_memory(self, x: Tensor) -> Tensor:
        return (x if self.layout.order is None else x.permute(self.layout.order)).contiguous()

    def _room(self, x: Tensor) -> Tensor | None:
        """An output with the strides of x, if its memory order is the one that the kernels write; otherwise None."""
        room = torch.empty_like(x)
        return room if self.layout.order is not None or room.is_contiguous() else None

    def _as_it_came(self, y: Tensor) -> Tensor:
        """y in the axes of x."""
        return y if self.layout.order is None else y.permute(self.layout.inverse_order)


def train_natively(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    epsilon: float,
    layout: Layout,
) -> tuple[Tensor, tuple[Tensor, Tensor]] | None:
    """y, and the batch's mean and variance (the population's), each [G, C]; None if no kernel can be used.

    `layout` may be in the order of memory.
    """
    found = cpu_kernels.find(layout, x, gamma, beta)
    if found is None or (layout.order is None and not x.is_contiguous()):
        return None
    step = Step(found, epsilon, layout)
    if not cpu_kernels.is_recorded(x, gamma, beta):
        y, statistics = step.train(x, gamma, beta)
        return y, (statistics[0], statistics[2])
    # How statistics leave without a gradient.
    left: list[Tensor] = []
    y: Tensor = _Train.apply(step, left, x, gamma, beta)  # pyright: ignore[reportAssignmentType]
    statistics = left.pop()
    return y, (statistics[0], statistics[2])


class _Train(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, step: Step, left: list[Tensor], x: Tensor, gamma: Tensor | None, beta: Tensor | None
    ) -> Tensor:
        y, statistics = step.train(x, gamma, beta)
        left.append(statistics)
        ctx.save_for_backward(x, gamma, statistics)
        ctx.step = step
        ctx.beta_dtype = None if beta is None else beta.dtype
        return y

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        (dy,) = outputs
        x, gamma, statistics = ctx.saved_tensors
        step: Step = ctx.step
        dx = None
        if torch.is_grad_enabled():
            dx, sums = step.differentiable_gradients(dy, x, gamma)
        elif ctx.needs_input_grad[2]:
            dx, sums = step.gradients(dy, x, gamma, statistics)
        else:
            sums = step.sums(dy, x, gamma, statistics)
        return None, None, dx, *parameter_gradients(sums, gamma, ctx.beta_dtype)


def parameter_gradients(
    sums: Tensor, gamma: Tensor | None, beta_dtype: torch.dtype | None
) -> tuple[Tensor | None, Tensor | None]:
    """Those of gamma and beta, from Σdy and Σdy·x̂ per group."""
    dbeta, dgamma = (sums[:, 0] if sums.shape[1] == 1 else sums.sum(1)).unbind()
    return (
        None if gamma is None else dgamma.to(gamma.dtype),
        None if beta_dtype is None else dbeta.to(beta_dtype),
    )
