"""Batch normalization without corrections: a kernel, PyTorch's or ours, and the running statistics written at once.

Its gradients are PyTorch's own, to the second order. The core gives the same numbers; what this saves is the time of
some forty operations on small tensors, which for small inputs is most of it.
"""

import torch

from batchnorm._engines.torch import native, ops
from batchnorm._engines.torch.block import plan_block
from batchnorm._engines.torch.single import train_natively
from batchnorm._kernels import available
from batchnorm.errors import refusal
from batchnorm.layout import Layout, plan_layout

__all__ = ["batch_norm", "check_epsilon", "grouped_batch_norm", "prefers_native", "refuse_single"]

Tensor = torch.Tensor

# Numbers in a ghost batch of neighbors from which copying groups beside the channels costs more than calling for each.
LARGE_GROUP = 65_536

# Numbers in an input from which our kernels win back what calling them from Python costs; and where the channels lie
# last in memory, which PyTorch's kernel likes better.
LARGE_INPUT = 196_608
LARGE_LAST = 1_048_576


def prefers_native(x: Tensor) -> bool:
    """Whether a plain training step on x is quicker by the CPU kernels than in one call of PyTorch's.

    Not asked while a compiler traces: sizes are symbols then, which are not to be compared.
    """
    size = x.numel()
    if size < LARGE_INPUT:
        return False
    first = x.dim() > 2 and x.is_contiguous()
    return (first or size >= LARGE_LAST) and x.is_cpu and available()


def batch_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_variance: Tensor | None,
    training: bool,
    momentum: float,
    epsilon: float,
) -> Tensor:
    """What `torch.nn.functional.batch_norm` computes, refused where it refuses, for inputs that are not empty.

    Without running statistics those of the batch are used and nothing is written. `momentum` is the share of the
    new; the running variance is the sample's.
    """
    if training:
        if x.numel() == x.size(1):
            refuse_single(x)
        check_epsilon(epsilon)
    return torch.batch_norm(
        x,
        gamma,
        beta,
        running_mean,
        running_variance,
        training,
        momentum,
        epsilon,
        torch.backends.cudnn.enabled,
    )


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
    """The same while training, on any layout: ghost groups stand beside the channels, and there is one call for all.

    The running statistics take the average of the groups' means and sample variances.
    """
    done = train_natively(x, gamma, beta, epsilon, layout)
    if done is not None:
        y, (mean, variance) = done
        if running_mean is not None and running_variance is not None:
            native.blend(mean, 1.0, momentum, running_mean)
            native.blend(variance, layout.count / max(layout.count - 1, 1), momentum, running_variance)
        return y
    y, statistics = _by_torch(x, gamma, beta, epsilon, layout)
    if running_mean is not None and running_variance is not None:
        mean, variance = (statistics[:, 0] if layout.ghosts == 1 else statistics.mean(1)).unbind()
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_variance.lerp_(variance.to(running_variance.dtype), momentum)
    return y


def _by_torch(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, layout: Layout
) -> tuple[Tensor, Tensor]:
    """y, and the groups' means and sample variances, [2, G, C]."""
    groups, channels = layout.ghosts, layout.channels
    statistics = x.new_zeros((2, groups * channels), dtype=ops.stat_dtype(x))
    mean, variance = statistics.unbind()
    if groups > 1 and 0 not in layout.reduced and layout.count * channels >= LARGE_GROUP:
        parts = x.split(layout.split[1])
        part = plan_block(plan_layout(parts[0].shape, layout.axes))
        rows = zip(parts, mean.view(groups, -1), variance.view(groups, -1), strict=True)
        outputs = [_kernel(part.view(x), gamma, beta, mean, variance, epsilon) for x, mean, variance in rows]
        y = torch.cat([part.restore(each) for each in outputs])
    else:
        block = plan_block(layout)
        gamma, beta = block.spread(gamma), block.spread(beta)
        y = block.restore(_kernel(block.view(x), gamma, beta, mean, variance, epsilon))
    return y, statistics.view(2, groups, channels)


def _kernel(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, mean: Tensor, variance: Tensor, epsilon: float
) -> Tensor:
    """Averages that keep nothing of their old value are the batch's own statistics."""
    return torch.batch_norm(x, gamma, beta, mean, variance, True, 1.0, epsilon, torch.backends.cudnn.enabled)


def check_epsilon(epsilon: float) -> None:
    """Refuse what torch refuses while training: a variance of zero would divide by zero."""
    if epsilon <= 0.0:
        raise ValueError(
            refusal(
                f"batch_norm eps must be positive during training, but got {epsilon}",
                "It keeps the square root away from zero where the numbers of a channel are equal",
                "Pass a small positive number such as 1e-5",
            )
        )


def refuse_single(x: Tensor) -> None:
    """Raise ValueError: one number per statistic."""
    raise ValueError(
        refusal(
            f"Expected more than 1 value per channel when training, got input size {x.size()}",
            "One number is its own mean, so that its normalized value says nothing",
            "Use larger batches (drop_last=True in the data loader), larger ghost batches, or eval()",
        )
    )
