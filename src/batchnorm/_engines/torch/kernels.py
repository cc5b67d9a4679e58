"""PyTorch's own batch normalization on any layout: one call over all groups and channels."""

from typing import Any

import torch

from batchnorm._engines.protocol import Moments, Saved
from batchnorm._engines.torch import ops
from batchnorm._engines.torch.block import Block, plan_block
from batchnorm._engines.torch.tracing import is_traced
from batchnorm.layout import Layout

__all__ = ["fits", "fused_gradients", "fused_infer", "fused_train", "infers", "pull_plainly", "statistics"]

Tensor = torch.Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def fits(x: Tensor, layout: Layout) -> bool:
    """Whether the kernel takes these numbers, and its sample variance tells the population's."""
    return not is_traced() and x.dtype in FLOATS and x.numel() > 0 and layout.count > 1


def statistics(x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Mean and variance of each group and channel, [G, C].

    The kernel rounds the mean to the dtype of the statistics before it subtracts it, which a mean far from zero does
    not bear; so the first number of each channel is subtracted beforehand.
    """
    block = plan_block(layout)
    view = block.view(x)
    center = view[:1] if view.dim() == 2 else view[:1, :, :1]
    # From an infinite center every finite number would deviate by infinity.
    center = torch.where(torch.isfinite(center), center, 0.0)
    mean, variance = _fresh(block, x)
    dtype = ops.stat_dtype(x)
    torch.batch_norm_update_stats(view.to(dtype) - center, mean, variance, 1.0)
    mean = mean + center.reshape(-1)
    return block.grouped(mean), block.grouped(variance * _population(layout))


def fused_train(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, layout: Layout
) -> tuple[Tensor, Moments[Tensor], Tensor] | None:
    """y, the moments and the scale, γ / √(σ² + ε)."""
    if not fits(x, layout):
        return None
    block = plan_block(layout)
    gammas, betas = block.spread(gamma), block.spread(beta)
    # Averages that keep nothing of their old value are the batch's own statistics.
    mean, variance = _fresh(block, x)
    y, _, inverse = torch.native_batch_norm(
        block.view(x), gammas, betas, mean, variance, True, 1.0, float(epsilon)
    )
    total = float(layout.count)
    moments = Moments(total, total, block.grouped(mean), block.grouped(variance * _population(layout)))
    scale = inverse if gammas is None else inverse * gammas
    return block.restore(y), moments, block.grouped(scale)


def fused_gradients(
    dy: Tensor, x: Tensor, saved: Saved[Tensor], epsilon: float, layout: Layout
) -> tuple[Tensor, Tensor, Tensor] | None:
    """dx, Σdy and Σdy·x̂. The kernel's weight is γ·r, as the gradient takes r for a constant."""
    if not fits(x, layout):
        return None
    block = plan_block(layout)
    deviation = torch.sqrt(saved.variance + epsilon)
    weight, mean, inverse = (
        part.reshape(-1) for part in (saved.scale * deviation, saved.mean, 1.0 / deviation)
    )
    dx, products, sums = torch.ops.aten.native_batch_norm_backward(
        block.view(dy), block.view(x), weight, None, None, mean, inverse, True, float(epsilon), [True] * 3
    )
    return block.restore(dx), block.grouped(sums), block.grouped(products)


def pull_plainly(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
    layout: Layout,
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, Σdy and, with gamma, Σdy·x̂, whose own gradients are PyTorch's."""
    block = plan_block(layout)
    weight = block.spread(None if gamma is None else gamma.to(mean.dtype))
    mean, inverse = mean.reshape(-1), torch.rsqrt(variance + epsilon).reshape(-1)
    wanted = [True, gamma is not None, True]
    dx, products, sums = torch.ops.aten.native_batch_norm_backward(
        block.view(dy), block.view(x), weight, None, None, mean, inverse, True, float(epsilon), wanted
    )
    products = sums if gamma is None else products
    return block.restore(dx), block.grouped(sums), block.grouped(products)


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


def _fresh(block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
    size, dtype = (block.width,), ops.stat_dtype(x)
    return x.new_zeros(size, dtype=dtype), x.new_zeros(size, dtype=dtype)


def _population(layout: Layout) -> Any:
    """(N − 1) / N, from the sample variance to the population's."""
    return (layout.count - 1) / layout.count
