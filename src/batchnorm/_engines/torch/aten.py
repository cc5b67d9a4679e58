"""PyTorch's own batch normalization on any layout: one call over all groups and channels."""

from typing import Any

import torch

from batchnorm._core.engine import Moments, Saved
from batchnorm._engines.torch import ops
from batchnorm._engines.torch.block import Block, plan_block
from batchnorm._engines.torch.tracing import EXACT_TYPES, is_traced
from batchnorm.layout import Layout

__all__ = [
    "backward_of_plain",
    "fits",
    "fused_gradients",
    "fused_infer",
    "fused_train",
    "infers",
    "statistics",
]

Tensor = torch.Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
) -> tuple[Tensor, Tensor, Tensor] | None:
    """dx, Σdy and Σdy·x̂. The kernel's weight is γ·r, as the gradient takes r for a constant."""
    if not fits(x, layout):
        return None
    block = plan_block(layout)
    deviation = torch.sqrt(saved.variance + epsilon)
    weight, inverse = (part.reshape(-1) for part in (saved.scale * deviation, 1.0 / deviation))
    return _backward(block, dy, x, weight, saved.center, saved.offset, inverse, epsilon, [True] * 3)


def backward_of_plain(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    center: Tensor,
    offset: Tensor,
    variance: Tensor,
    epsilon: float,
    layout: Layout,
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, Σdy and, with gamma, Σdy·x̂, whose own gradients are PyTorch's."""
    block = plan_block(layout)
    weight = block.spread(None if gamma is None else gamma.to(center.dtype))
    inverse = torch.rsqrt(variance + epsilon).reshape(-1)
    return _backward(block, dy, x, weight, center, offset, inverse, epsilon, [True, gamma is not None, True])


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
    y = torch.batch_norm(
        block.view(x), gamma, beta, mean, variance, False, 0.0, float(epsilon), torch.backends.cudnn.enabled
    )
    return block.restore(y)


def infers(x: Tensor, block: Block) -> bool:
    """Whether the kernel takes these numbers at inference without moving them."""
    return block.order is None and x.dtype in FLOATS


def _backward(
    block: Block,
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    center: Tensor,
    offset: Tensor,
    inverse: Tensor,
    epsilon: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, Σdy and Σdy·x̂ by PyTorch's kernel, the last only if it is wanted."""
    view = block.view(x)
    centered = view.to(center.dtype) - center.reshape(1, -1, *[1] * (view.dim() - 2))
    dx, products, sums = torch.ops.aten.native_batch_norm_backward(
        block.view(dy.to(center.dtype)),
        centered,
        weight,
        None,
        None,
        offset.reshape(-1),
        inverse,
        True,
        float(epsilon),
        wanted,
    )
    products = products if wanted[1] else sums
    return block.restore(dx.to(x.dtype)), block.grouped(sums), block.grouped(products)


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
    total, variance = float(block.layout.count), sample * _population(block.layout)
    return Moments(total, total, *map(block.grouped, (center + offset, variance, center, offset)))


def _fresh(block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
    size, dtype = (block.width,), ops.stat_dtype(x)
    return x.new_zeros(size, dtype=dtype), x.new_zeros(size, dtype=dtype)


def _population(layout: Layout) -> Any:
    """(N − 1) / N, from the sample variance to the population's."""
    return (layout.count - 1) / layout.count
