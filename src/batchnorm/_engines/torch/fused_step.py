"""A plain training step and its gradient on the CPU kernels: one call each way, whatever the layout.

`train_natively` is the step of an ordinary program. A compiled graph holds the same step as the operations
`batchnorm::train` and `batchnorm::gradients`, if the numbers are in the memory of the CPU. Exported programs hold
standard operations only, so that whoever loads one needs nothing of ours.
"""

from collections.abc import Sequence
from typing import Any

import torch

from batchnorm._core import fused
from batchnorm._core.engine import Moments
from batchnorm._engines.torch import cpu_kernels, ops
from batchnorm._engines.torch.autodiff import WithGradient
from batchnorm._engines.torch.composed import composed
from batchnorm._engines.torch.numpy_ops import as_numpy, as_tensor
from batchnorm._engines.torch.numpy_stats import Host
from batchnorm._engines.torch.private import is_view
from batchnorm._engines.torch.tracing import is_recorded
from batchnorm.layout import Layout, plan_in_memory, product
from batchnorm.options import Ghost

__all__ = ["train_as_operation", "train_natively"]

Tensor = torch.Tensor


def train_natively(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, layout: Layout
) -> tuple[Tensor, tuple[Tensor, Tensor]] | None:
    """y, and the batch's mean and variance (the population's), each [G, C]; None if no kernel can be used.

    `layout` may be in the order of memory.
    """
    kernels = cpu_kernels.find(layout, x, gamma, beta)
    if kernels is None or (layout.order is None and not x.is_contiguous()):
        return None
    if not is_recorded(x, gamma, beta):
        y, statistics = cpu_kernels.train_by(kernels, x, gamma, beta, epsilon)
        return y, (statistics[0], statistics[2])
    beta_dtype = None if beta is None else beta.dtype
    # How statistics leave without a gradient.
    left: list[Tensor] = []

    def run(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> tuple[Tensor, Any, Tensor]:
        y, statistics = cpu_kernels.train_by(kernels, x, gamma, beta, epsilon)
        left.append(statistics)
        return y, (x, gamma), statistics

    def pull(kept: Any, statistics: Tensor, dy: Tensor, needed: Sequence[bool]) -> Sequence[Tensor | None]:
        x, gamma = kept
        dx, sums = _gradients_of(dy, x, gamma, statistics, epsilon, kernels.layout, needed[0])
        return dx, *_parameter_gradients(sums, gamma, beta_dtype)

    y: Tensor = WithGradient.apply(run, pull, x, gamma, beta)  # pyright: ignore[reportAssignmentType]
    statistics = left.pop()
    return y, (statistics[0], statistics[2])


def _gradients_of(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    statistics: Tensor,
    epsilon: float,
    layout: Layout,
    needs_dx: bool = True,
) -> tuple[Tensor | None, Tensor]:
    """dx, if it is needed, and Σdy and Σdy·x̂ as one tensor [2, G, C]."""
    kernels = None if torch.is_grad_enabled() else cpu_kernels.find(layout, x, dy, statistics)
    if kernels is None:
        # To be derived again to any order: PyTorch's own kernel is wrong from the third on.
        return _plain_gradients(dy, x, gamma, epsilon, layout)
    if needs_dx:
        return cpu_kernels.gradients_by(kernels, dy, x, statistics.unbind(), epsilon)
    mean, rest, variance, _ = statistics
    sums = Host(kernels).grad_sums(dy, x, as_numpy(mean), layout)
    total, centered = map(as_tensor, sums)
    return None, torch.stack((total, (centered - rest * total) * torch.rsqrt(variance + epsilon)))


def _plain_gradients(
    dy: Tensor, x: Tensor, gamma: Tensor | None, epsilon: float, layout: Layout
) -> tuple[Tensor, Tensor]:
    """The same in plain operations, from the inputs alone."""
    if layout.order is not None:
        dy, x = dy.permute(layout.order), x.permute(layout.order)
    _, moments, scale = fused.train(composed, x, gamma, None, epsilon, layout)
    known = moments.center, moments.offset, moments.variance, scale
    dx, *sums = fused.gradients(composed, dy, x, *known, epsilon, layout)
    return dx if layout.order is None else dx.permute(layout.inverse_order), torch.stack(sums)


def _parameter_gradients(
    sums: Tensor, gamma: Tensor | None, beta_dtype: torch.dtype | None
) -> tuple[Tensor | None, Tensor | None]:
    """Those of gamma and beta, from Σdy and Σdy·x̂ per group."""
    dbeta, dgamma = (sums[:, 0] if sums.shape[1] == 1 else sums.sum(1)).unbind()
    return (
        None if gamma is None else dgamma.to(gamma.dtype),
        None if beta_dtype is None else dbeta.to(beta_dtype),
    )


def train_as_operation(
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
    layout = _layout_of(x, axes, ghost_size, interleaved)
    kernels = cpu_kernels.find(layout, x, gamma, beta)
    if kernels is not None:
        y, statistics = cpu_kernels.train_by(kernels, x, gamma, beta, epsilon)
    else:
        dense = x if layout.order is None else x.permute(layout.order)
        y, moments, scale = fused.train(composed, dense, gamma, beta, epsilon, layout)
        y = y.permute(layout.inverse_order)
        statistics = torch.stack((moments.center, moments.offset, moments.variance, scale))
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
    layout = _layout_of(x, axes, ghost_size, interleaved)
    with torch.no_grad():
        dx, sums = _gradients_of(dy, x, gamma, statistics, epsilon, layout)
    return _as_promised(dx, x), sums  # pyright: ignore[reportArgumentType]


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
    return dx, *_parameter_gradients(sums, gamma, ctx.beta_dtype), *[None] * len(ctx.asked)


_train.register_autograd(_backward, setup_context=_keep)


def _layout_of(x: Tensor, axes: Sequence[int], ghost_size: int, interleaved: bool) -> Layout:
    ghost = Ghost(ghost_size, "interleaved" if interleaved else "contiguous") if ghost_size else None
    return plan_in_memory(tuple(x.shape), x.stride(), tuple(axes), ghost)


def _as_promised(y: Tensor, x: Tensor) -> Tensor:
    """y with the strides that the compiler was told of, as a tensor of its own."""
    promised = torch.empty_like(x)
    return y if y.stride() == promised.stride() and not is_view(y) else promised.copy_(y)


def _statistics(number: int, x: Tensor, axes: Sequence[int], ghost_size: int) -> Tensor:
    groups = x.shape[0] // ghost_size if ghost_size else 1
    return x.new_empty((number, groups, product(x.shape[axis] for axis in axes)), dtype=ops.stat_dtype(x))
