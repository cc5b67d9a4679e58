"""Plain training steps on the CPU kernels, with their gradient: one call each way, whatever the layout."""

# Compilers that trace Python cannot evaluate the annotations of functions that are made on the way.
from __future__ import annotations

from typing import Any, NamedTuple

import torch

from batchnorm._core.affine import fold
from batchnorm._engines import steps
from batchnorm._engines.torch import kernels, native
from batchnorm._engines.torch.host import Host
from batchnorm._engines.torch.host_ops import as_tensor, lower
from batchnorm._engines.torch.reference import composed
from batchnorm.layout import Layout

__all__ = ["train_natively"]

Tensor = torch.Tensor


def train_natively(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, layout: Layout
) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """y, and the batch's mean and variance (the population's), each [G, C]; None where no kernel can go."""
    found = native.find(layout, x, gamma, beta)
    if found is None or not x.is_contiguous():
        return None
    given = [value for value in (x, gamma, beta) if value is not None]
    if not (torch.is_grad_enabled() and any(value.requires_grad for value in given)):
        y, statistics = native.train_by(found, x, gamma, beta, epsilon, layout)
        return y, statistics.unbind()[:2]
    plan = _Plan(found, epsilon, layout, [])
    y: Tensor = _Train.apply(plan, x, gamma, beta)  # pyright: ignore[reportAssignmentType]
    return y, plan.statistics.pop().unbind()[:2]


class _Plan(NamedTuple):
    """What is known of a step besides its arrays; `statistics` is how they leave without a gradient."""

    kernels: native.Kernels
    epsilon: float
    layout: Layout
    statistics: list[Tensor]


class _Train(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        y, statistics = native.train_by(plan.kernels, x, gamma, beta, plan.epsilon, plan.layout)
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
        dx = None
        if torch.is_grad_enabled():
            dx, *both = _differentiably(dy, x, gamma, epsilon, layout)
            sums = torch.stack(both)
        elif found is None:
            # PyTorch's kernel takes every kind of tensor.
            mean, variance, _ = statistics
            dx, *both = kernels.pull_plainly(dy, x, gamma, mean, variance, epsilon, layout)
            sums = torch.stack(both)
        elif ctx.needs_input_grad[1]:
            dx, sums = native.gradients_by(found, dy, x, statistics.unbind(), epsilon, layout)
        else:
            mean, variance, _ = statistics
            sums = torch.stack(
                [as_tensor(v) for v in Host(found, layout).grad_sums(dy, x, lower(mean), layout)]
            )
            sums[1] *= torch.rsqrt(variance + epsilon)
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
    mean, variance = composed.moments(x, None, layout)[2:]
    gamma = None if gamma is None else gamma.to(variance.dtype)
    scale, _ = fold(composed.ops, epsilon, variance, None, None, gamma, None, layout)
    return steps.gradients(composed, dy, x, mean, variance, scale, epsilon, layout)
