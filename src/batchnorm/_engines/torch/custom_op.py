"""A plain training step as operations that PyTorch's compilers see: `batchnorm::train` and `batchnorm::gradients`.

A compiled graph holds them if the numbers are in the memory of the CPU, and calls our kernels for them. Exported
programs hold standard operations only, so that whoever loads one needs nothing of ours.
"""

from collections.abc import Sequence
from typing import Any

import torch

from batchnorm._core.engine import Moments
from batchnorm._engines.torch import cpu_kernels, ops
from batchnorm._engines.torch.fused_step import Step, parameter_gradients
from batchnorm._engines.torch.private import is_view
from batchnorm.layout import Layout, plan_in_memory, product
from batchnorm.options import Ghost

__all__ = ["train"]

Tensor = torch.Tensor


def train(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, layout: Layout
) -> tuple[Tensor, Moments[Tensor], Tensor]:
    """y, the moments and the scale, which are constants of the gradient."""
    ghost = layout.ghost
    size, interleaved = (0, False) if ghost is None else (ghost.size, ghost.order == "interleaved")
    y, statistics = _train(x, gamma, beta, list(layout.axes), size, interleaved, float(epsilon))
    center, offset, variance, scale = statistics.detach().unbind()
    total = ops.as_float(layout.count, scale.dtype)
    return y, Moments(total, total, center + offset, variance, center, offset), scale


@torch.library.custom_op("batchnorm::train", mutates_args=())
def _train(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    axes: Sequence[int],
    ghost_size: int,
    interleaved: bool,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """y, and center, offset, variance and scale as one tensor [4, G, C]."""
    step = _step(x, axes, ghost_size, interleaved, epsilon, gamma, beta)
    y, statistics = step.train(x, gamma, beta)
    return _as_promised(y, x), statistics


@torch.library.custom_op("batchnorm::gradients", mutates_args=())
def _gradients(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    statistics: Tensor,
    axes: Sequence[int],
    ghost_size: int,
    interleaved: bool,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """dx, and Σdy and Σdy·x̂ as one tensor [2, G, C]."""
    dx, sums = _step(x, axes, ghost_size, interleaved, epsilon).gradients(dy, x, gamma, statistics)
    return _as_promised(dx, x), sums


@_train.register_fake
def _(
    x: Tensor, gamma: Any, beta: Any, axes: Sequence[int], ghost_size: int, *rest: Any
) -> tuple[Tensor, Tensor]:
    del gamma, beta, rest
    return torch.empty_like(x), _statistics(4, x, axes, ghost_size)


@_gradients.register_fake
def _(
    dy: Tensor, x: Tensor, gamma: Any, statistics: Tensor, axes: Sequence[int], ghost_size: int, *rest: Any
) -> tuple[Tensor, Tensor]:
    del dy, gamma, statistics, rest
    return torch.empty_like(x), _statistics(2, x, axes, ghost_size)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, gamma, beta, *asked = inputs
    ctx.save_for_backward(x, gamma, output[1])
    ctx.asked, ctx.beta_dtype = asked, None if beta is None else beta.dtype


def _backward(ctx: Any, dy: Tensor, unused: Tensor | None) -> tuple[Any, ...]:
    del unused
    x, gamma, statistics = ctx.saved_tensors
    dx, sums = _gradients(dy, x, gamma, statistics, *ctx.asked)
    return dx, *parameter_gradients(sums, gamma, ctx.beta_dtype), *[None] * len(ctx.asked)


_train.register_autograd(_backward, setup_context=_keep)


def _step(
    x: Tensor,
    axes: Sequence[int],
    ghost_size: int,
    interleaved: bool,
    epsilon: float,
    *parameters: Tensor | None,
) -> Step:
    ghost = Ghost(ghost_size, "interleaved" if interleaved else "contiguous") if ghost_size else None
    layout = plan_in_memory(tuple(x.shape), x.stride(), tuple(axes), ghost)
    return Step(cpu_kernels.find(layout, x, *parameters), epsilon, layout)


def _as_promised(y: Tensor, x: Tensor) -> Tensor:
    """y with the strides that the compiler was told of, as a tensor of its own."""
    promised = torch.empty_like(x)
    return y if y.stride() == promised.stride() and not is_view(y) else promised.copy_(y)


def _statistics(number: int, x: Tensor, axes: Sequence[int], ghost_size: int) -> Tensor:
    groups = x.shape[0] // ghost_size if ghost_size else 1
    return x.new_empty((number, groups, product(x.shape[axis] for axis in axes)), dtype=ops.stat_dtype(x))
