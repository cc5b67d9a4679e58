"""Batch normalization without corrections: a kernel, PyTorch's or ours, and the running statistics written at once.

Its gradients are PyTorch's own, to the second order. The core gives the same numbers; what this saves is the time of
some forty operations on small tensors, which for small inputs is most of it.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch

from batchnorm._core.moments import bessel
from batchnorm._engines.torch import cpu_kernels, dispatch, ops
from batchnorm._engines.torch.aten import batch_norm, plan_block
from batchnorm._engines.torch.fused_step import train_natively
from batchnorm._engines.torch.private import is_watched, version_of
from batchnorm._engines.torch.tracing import EXACT_TYPES, is_recorded, is_traced
from batchnorm.errors import format_error
from batchnorm.layout import Layout, plan_layout

__all__ = [
    "check_step",
    "for_gradient",
    "grouped_batch_norm",
    "infer",
]

Tensor = torch.Tensor

# Numbers in a ghost batch of neighbors from which copying groups beside the channels costs more than calling for each.
LARGE_GROUP = 65_536

# Up to this many deviations between the mean and zero, PyTorch's inference operation is accurate to about 1e-6.
FAR = 16.0
_distances: WeakKeyDictionary[object, tuple[Any, bool]] = WeakKeyDictionary()


def infer(
    owner: object,
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
) -> Tensor:
    """The same by running statistics, along axis 1. `owner` is the layer that they belong to.

    PyTorch's operation on a CPU multiplies before it subtracts. Ours, which subtracts first, is used on large inputs
    and if a mean is so far from zero that PyTorch's would lose digits, unless a gradient is recorded. Training may
    move the statistics before a gradient is requested.
    """
    traced = is_traced()
    if not cpu_kernels.prefers_operation(x) and (
        traced or x.numel() >= dispatch.LARGE_INPUT or _is_far(owner, mean, variance, epsilon)
    ):
        y = cpu_kernels.infer(x, gamma, beta, mean, variance, epsilon, (1,))
        if y is not None:
            return y
        if traced or _is_far(owner, mean, variance, epsilon):
            along = (1, -1, *[1] * (x.dim() - 2))
            scale = torch.rsqrt(variance + epsilon)
            scale = scale if gamma is None else scale * gamma
            y = (x.to(scale.dtype) - mean.reshape(along)) * scale.reshape(along)
            return (y if beta is None else y + beta.reshape(along)).to(x.dtype)
    mean, variance = for_gradient((mean, variance), x, gamma, beta)
    return batch_norm(x, gamma, beta, mean, variance, False, 0.0, epsilon)


def for_gradient(statistics: tuple[Tensor, ...], *given: Tensor | None) -> tuple[Tensor, ...]:
    """Running statistics that a gradient may keep: copies, if PyTorch records one for what is given.

    A training step in between moves the originals. PyTorch's own kernel does not report that, and its layers then
    return a gradient by the moved statistics. Exporters and tracers get the originals.
    """
    if not is_recorded(*given) or is_traced() or is_watched():
        return statistics
    return tuple(value.clone() for value in statistics)


def _is_far(owner: object, mean: Tensor, variance: Tensor, epsilon: float) -> bool:
    """Whether a mean is further from zero than a few deviations. It is computed when the statistics have changed."""
    if type(mean) not in EXACT_TYPES or mean.is_inference() or variance.is_inference():
        return False
    known = (id(mean), version_of(mean), id(variance), version_of(variance), epsilon)
    if _distances.get(owner, (None,))[0] != known:
        with torch.no_grad():
            far = (mean * torch.rsqrt(variance + epsilon)).abs().amax()
            _distances[owner] = known, bool(far > FAR)
    return _distances[owner][1]


def grouped_batch_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_variance: Tensor | None,
    momentum: float,
    epsilon: float,
    layout: Layout,
) -> Tensor:
    """The same in training, on any layout: ghost groups are treated like further channels, in one call for all.

    The running statistics take the average of the groups' means and sample variances. `layout` may be in the order of
    memory.
    """
    done = train_natively(x, gamma, beta, epsilon, layout)
    if done is not None:
        y, statistics = done
        factor: Any = bessel(ops, float(layout.count))
    else:
        dense = x if layout.order is None else x.permute(layout.order)
        y, statistics = _by_torch(dense, gamma, beta, epsilon, layout)
        # PyTorch's variances are the sample's.
        y, factor = y if layout.order is None else ops.as_own(y.permute(layout.inverse_order)), 1.0
    if running_mean is not None and running_variance is not None:
        cpu_kernels.move_averages((running_mean, running_variance), statistics, factor, momentum)
    return y


def _by_torch(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, layout: Layout
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """y, and the groups' means and sample variances, each [G, C]."""
    groups, channels = layout.ghosts, layout.channels
    # Averages that keep nothing of their old value are the batch's own statistics.
    statistics = x.new_zeros((2, groups * channels), dtype=ops.stat_dtype(x))
    mean, variance = statistics.unbind()
    if groups > 1 and 0 not in layout.reduced and layout.count * channels >= LARGE_GROUP:
        parts = x.split(layout.split[1])
        part = plan_block(plan_layout(parts[0].shape, layout.axes))
        rows = zip(parts, mean.view(groups, -1), variance.view(groups, -1), strict=True)
        outputs = [
            batch_norm(part.view(x), gamma, beta, mean, variance, True, 1.0, epsilon)
            for x, mean, variance in rows
        ]
        y = torch.cat([part.restore(each) for each in outputs])
    else:
        block = plan_block(layout)
        gamma, beta = block.spread(gamma), block.spread(beta)
        y = block.restore(batch_norm(block.view(x), gamma, beta, mean, variance, True, 1.0, epsilon))
    return y, (mean.view(groups, channels), variance.view(groups, channels))


def check_step(x: Tensor, epsilon: float, is_single: bool) -> None:
    """Refuse what torch refuses while training: a variance of zero would divide by zero, or every variance is zero."""
    if is_single:
        raise ValueError(
            format_error(
                f"Expected more than 1 value per channel when training, got input size {x.size()}",
                "One number is its own mean, so that its normalized value says nothing",
                "Use larger batches (drop_last=True in the data loader), larger ghost batches, or eval()",
            )
        )
    if epsilon <= 0.0:
        raise ValueError(
            format_error(
                f"batch_norm eps must be positive during training, but got {epsilon}",
                "It keeps the square root away from zero where the numbers of a channel are equal",
                "Pass a small positive number such as 1e-5",
            )
        )
