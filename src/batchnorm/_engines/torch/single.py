"""Plain training steps on the CPU kernels, with their gradient: one call each way, whatever the layout."""

# Compilers that trace Python cannot evaluate the annotations of functions that are made on the way.
from __future__ import annotations

from typing import Any, NamedTuple

import torch

from batchnorm._core import fused
from batchnorm._core.affine import fold
from batchnorm._engines.torch import kernels, native
from batchnorm._engines.torch.block import inverse_order
from batchnorm._engines.torch.host import Host
from batchnorm._engines.torch.host_ops import as_tensor, lower
from batchnorm._engines.torch.reference import composed
from batchnorm.layout import Layout

__all__ = ["train_natively"]

Tensor = torch.Tensor


def train_natively(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    epsilon: float,
    layout: Layout,
    order: tuple[int, ...] | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """y, and the batch's mean and variance (the population's), each [G, C]; None if no kernel can be used.

    `order` is the axes' order in memory if it differs from their own, and `layout` is then the layout in that order.
    """
    found = native.find(layout, x, gamma, beta)
    if found is None or (order is None and not x.is_contiguous()):
        return None
    plan = _Plan(found, epsilon, layout, order, [])
    if not native.is_recorded(x, gamma, beta):
        y, statistics = plan.train(x, gamma, beta)
        return y, statistics[::2].unbind()
    y: Tensor = _Train.apply(plan, x, gamma, beta)  # pyright: ignore[reportAssignmentType]
    return y, plan.statistics.pop()[::2].unbind()


class _Plan(NamedTuple):
    """What is known of a step besides its arrays; `statistics` is how they leave without a gradient."""

    kernels: native.Kernels
    epsilon: float
    layout: Layout
    order: tuple[int, ...] | None
    statistics: list[Tensor]

    def train(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> tuple[Tensor, Tensor]:
        y = torch.empty_like(x)
        return native.train_by(self.kernels, self.in_memory(x), gamma, beta, self.epsilon, self.layout, y)

    def in_memory(self, x: Tensor) -> Tensor:
        return x if self.order is None else x.permute(self.order)

    def as_it_came(self, dx: Tensor) -> Tensor:
        return dx if self.order is None else dx.permute(inverse_order(self.order))


class _Train(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        y, statistics = plan.train(x, gamma, beta)
        plan.statistics.append(statistics)
        ctx.save_for_backward(x, gamma, statistics)
        ctx.plan = plan
        ctx.beta_dtype = None if beta is None else beta.dtype
        return y

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        (dy,) = outputs
        x, gamma, statistics = ctx.saved_tensors
        plan: _Plan = ctx.plan
        layout, epsilon = plan.layout, plan.epsilon
        found = native.find(layout, x, dy, statistics)
        dy, dense, dx = plan.in_memory(dy), plan.in_memory(x), None
        if torch.is_grad_enabled():
            dx, *both = _differentiably(dy, dense, gamma, epsilon, layout)
            dx, sums = plan.as_it_came(dx), torch.stack(both)
        elif found is None:
            # PyTorch's kernel takes every kind of tensor.
            mean, rest, variance, _ = statistics
            dx, *both = kernels.pull_plainly(dy, dense, gamma, mean, rest, variance, epsilon, layout)
            dx, sums = plan.as_it_came(dx), torch.stack(both)
        elif ctx.needs_input_grad[1]:
            dx = torch.empty_like(x)
            _, sums = native.gradients_by(found, dy, dense, statistics.unbind(), epsilon, layout, dx)
        else:
            mean, rest, variance, _ = statistics
            sums = torch.stack(
                [as_tensor(v) for v in Host(found, layout).grad_sums(dy, dense, lower(mean), layout)]
            )
            sums[1] = (sums[1] - rest * sums[0]) * torch.rsqrt(variance + epsilon)
        # Over the groups.
        dbeta, dgamma = (sums[:, 0] if layout.ghosts == 1 else sums.sum(1)).unbind()
        return (
            None,
            dx,
            None if gamma is None else dgamma.to(gamma.dtype),
            None if ctx.beta_dtype is None else dbeta.to(ctx.beta_dtype),
        )


def _differentiably(
    dy: Tensor, x: Tensor, gamma: Tensor | None, epsilon: float, layout: Layout
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, to be derived again to any order: PyTorch's own kernel would be wrong from the third on."""
    _, _, _, variance, center, offset = composed.moments(x, None, layout)
    gamma = None if gamma is None else gamma.to(variance.dtype)
    scale, _ = fold(composed.ops, epsilon, variance, offset, None, None, gamma, None, layout)
    return fused.gradients(composed, dy, x, center, offset, variance, scale, epsilon, layout)
