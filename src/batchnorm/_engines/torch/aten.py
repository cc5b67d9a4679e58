"""PyTorch's own batch normalization on any layout: one call over all groups and channels.

Its kernels take the view [outer, groups × channels, inner]. Most layouts lie in memory like this. Ghost groups that are
apart from the channels cost one copy each way:

    channels first             [N, C, H·W]        as it is
    channels last              [N·H·W, C]         as it is
    interleaved, first or flat [v, G, C, H·W]     as it is, G and C as one
    contiguous, flat           [G, v, C]          moved to [v, G, C]
"""

from dataclasses import dataclass
from functools import lru_cache

import torch

from batchnorm._core.engine import Moments, Saved
from batchnorm._engines.torch import ops
from batchnorm._engines.torch.tracing import EXACT_TYPES, is_traced
from batchnorm.layout import Layout, Size, product

__all__ = [
    "Block",
    "batch_norm",
    "fits",
    "fused_gradients",
    "fused_infer",
    "fused_train",
    "infers",
    "plan_block",
    "statistics",
]

Tensor = torch.Tensor

FLOAT32 = torch.float32
FLOATS = (torch.float16, torch.bfloat16, FLOAT32, torch.float64)


@dataclass(frozen=True)
class Block:
    """One planned view.

    Attributes:
        layout: the layout.
        order: the axes of the layout's `split` in the order of the view; None if they are in it already.
        shape: [outer, width, inner], without an inner dimension of 1; width is groups times channels.
    """

    layout: Layout
    order: tuple[int, ...] | None
    shape: tuple[Size, ...]

    def view(self, x: Tensor) -> Tensor:
        """x as the block, dense."""
        if self.order is not None:
            x = x.reshape(self.layout.split).permute(self.order)
        x = x.reshape(self.shape)
        return x if x.is_contiguous() else x.contiguous()

    def restore(self, y: Tensor) -> Tensor:
        """A block in the shape of the input."""
        if self.order is not None:
            y = y.reshape([self.layout.split[axis] for axis in self.order])
            y = y.permute(sorted(range(len(self.order)), key=self.order.__getitem__)).contiguous()
        return ops.as_own(y, self.layout.shape)

    def grouped(self, statistic: Tensor) -> Tensor:
        """A statistic of the block as [G, C]."""
        return statistic.reshape(self.layout.ghosts, self.layout.channels)

    def spread(self, parameter: Tensor | None) -> Tensor | None:
        """gamma or beta, [C], for every group."""
        if parameter is None or self.shape[1] == self.layout.channels:
            return parameter
        # Tensor.repeat would take three times as long.
        return parameter.expand(self.layout.ghosts, -1).reshape(-1)


def plan_block(layout: Layout) -> Block:
    """The block of a layout."""
    known = not torch.compiler.is_compiling() and all(type(size) is int for size in layout.shape)
    return _plan_known(layout) if known else _plan(layout)


def _plan(layout: Layout) -> Block:
    axes = range(len(layout.split))
    reduced = [axis for run in layout.reduced for axis in layout.runs[run]]
    # The axis of the groups comes before those of the channels.
    kept = [axis for axis in axes if axis not in reduced]
    outer = [axis for axis in axes if axis in reduced and axis < kept[-1]]
    order = (*outer, *kept, *axes[kept[-1] + 1 :])
    sizes = [product(layout.split[axis] for axis in part) for part in (outer, kept, axes[kept[-1] + 1 :])]
    if type(sizes[2]) is int and sizes[2] == 1:
        sizes.pop()
    return Block(layout, None if order == tuple(axes) else order, tuple(sizes))


_plan_known = lru_cache(maxsize=1024)(_plan)


def batch_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    epsilon: float,
) -> Tensor:
    """What `torch.nn.functional.batch_norm` computes, for inputs that it does not refuse.

    Without running statistics, it uses the batch's and writes nothing. `momentum` is the share of the new value; the
    running variance takes the sample's. Gradients are PyTorch's own, to the second order.
    """
    if x.dtype is not FLOAT32 and mean is not None:
        # PyTorch requires one dtype for parameters and statistics, but layers in 16 bits have two.
        gamma = None if gamma is None else gamma.to(mean.dtype)
        beta = None if beta is None else beta.to(mean.dtype)
    cudnn = torch.backends.cudnn.enabled
    return torch.batch_norm(x, gamma, beta, mean, variance, training, momentum, epsilon, cudnn)


def fits(x: Tensor, layout: Layout) -> bool:
    """Whether the kernel takes these numbers, and its sample variance determines the population's.

    The kernel writes into the statistics, which only PyTorch's own tensors are sure to notice.
    """
    exact = type(x) in EXACT_TYPES and not is_traced()
    return exact and x.dtype in FLOATS and x.numel() > 0 and layout.count > 1


def statistics(x: Tensor, layout: Layout) -> Moments[Tensor]:
    """The moments, in PyTorch's own two passes."""
    block = plan_block(layout)
    view, center = _near_zero(block, x)
    offset, variance = _fresh(block, x)
    torch.batch_norm_update_stats(view, offset, variance, 1.0)
    return _moments(block, center, offset, variance)


def fused_train(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, layout: Layout
) -> tuple[Tensor, Moments[Tensor], Tensor] | None:
    """y, the moments and the scale, γ / √(σ² + ε)."""
    if not fits(x, layout):
        return None
    block = plan_block(layout)
    gammas, betas = block.spread(gamma), block.spread(beta)
    view, center = _near_zero(block, x)
    # Averages that keep nothing of their old value are the batch's own statistics.
    offset, variance = _fresh(block, x)
    y, _, inverse = torch.native_batch_norm(view, gammas, betas, offset, variance, True, 1.0, float(epsilon))
    scale = inverse if gammas is None else inverse * gammas
    moments = _moments(block, center, offset, variance)
    return block.restore(y.to(x.dtype)), moments, block.grouped(scale)


def fused_gradients(
    dy: Tensor, x: Tensor, saved: Saved[Tensor], epsilon: float, layout: Layout
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, Σdy and Σdy·x̂. The kernel's weight is γ·r, as the gradient takes r for a constant."""
    block = plan_block(layout)
    deviation = torch.sqrt(saved.variance + epsilon)
    weight, inverse = (part.reshape(-1) for part in (saved.scale * deviation, 1.0 / deviation))
    view, center = block.view(x), saved.center
    centered = view.to(center.dtype) - center.reshape(1, -1, *[1] * (view.dim() - 2))
    offset, along = saved.offset.reshape(-1), block.view(dy.to(center.dtype))
    given = along, centered, weight, None, None, offset, inverse, True, float(epsilon), [True] * 3
    dx, products, sums = torch.ops.aten.native_batch_norm_backward(*given)
    return block.restore(dx.to(x.dtype)), block.grouped(sums), block.grouped(products)


def fused_infer(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
    layout: Layout,
) -> Tensor | None:
    """γ·(x − mean) / √(variance + ε) + β: exporters know the operation. Its gradients are PyTorch's own."""
    block = plan_block(layout)
    if not infers(x, block):
        return None
    y = batch_norm(block.view(x), gamma, beta, mean, variance, False, 0.0, float(epsilon))
    return block.restore(y)


def infers(x: Tensor, block: Block) -> bool:
    """Whether the kernel takes these numbers at inference without moving them."""
    return block.order is None and x.dtype in FLOATS


def _near_zero(block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
    """x as the block minus the first number of each channel, in the statistics' dtype, and these first numbers.

    PyTorch's kernels round the mean to the dtype of the statistics before they subtract it, and multiply before they
    add, which loses digits if the mean is far from zero.
    """
    view = block.view(x)
    center = (view[:1] if view.dim() == 2 else view[:1, :, :1]).to(ops.stat_dtype(x))
    # With an infinite center every finite number would deviate by infinity.
    center = torch.where(torch.isfinite(center), center, 0.0)
    return view.to(center.dtype) - center, center.reshape(-1)


def _moments(block: Block, center: Tensor, offset: Tensor, sample: Tensor) -> Moments[Tensor]:
    """The moments from a center, the mean's offset from it, and the sample variance."""
    count = block.layout.count
    total, variance = float(count), sample * ((count - 1) / count)
    return Moments(total, total, *map(block.grouped, (center + offset, variance, center, offset)))


def _fresh(block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
    size, dtype = block.shape[1], ops.stat_dtype(x)
    return x.new_zeros(size, dtype=dtype), x.new_zeros(size, dtype=dtype)
