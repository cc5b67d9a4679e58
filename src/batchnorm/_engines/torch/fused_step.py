"""A plain training step and its gradient: one call each way, whatever the layout.

The core gives the same numbers. This saves some forty operations on small tensors, which take most of the time if the
input is small. `grouped_batch_norm` is the step of an ordinary program, by our kernels or PyTorch's; `custom_op` has
that of a compiled one.
"""

from typing import Any, NamedTuple

import torch

from batchnorm._core import fused
from batchnorm._core.affine import shift_of
from batchnorm._core.composed import pull_through
from batchnorm._core.engine import Epilogue
from batchnorm._core.epilogue import follow
from batchnorm._core.moments import bessel
from batchnorm._engines.torch import cpu_kernels, ops
from batchnorm._engines.torch.aten import batch_norm, plan_block
from batchnorm._engines.torch.composed import composed
from batchnorm._engines.torch.cpu_kernels import Kernels
from batchnorm._engines.torch.numpy_ops import as_numpy, as_tensor
from batchnorm._engines.torch.numpy_stats import Host
from batchnorm._engines.torch.tracing import is_recorded
from batchnorm.activation import Activation
from batchnorm.layout import Layout, plan_in_memory, plan_layout

__all__ = ["Step", "gradients_of", "grouped_batch_norm", "parameter_gradients", "train_natively"]

Tensor = torch.Tensor


# From this many numbers in a ghost batch of neighboring examples, moving the groups next to the channels costs more
# than one call for each group.
LARGE_GROUP = 65_536


def grouped_batch_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_variance: Tensor | None,
    momentum: float,
    epsilon: float,
    layout: Layout,
    epilogue: Epilogue[Tensor] | None = None,
) -> Tensor:
    """A training step on any layout, in which ghost groups are treated like further channels.

    The running statistics take the average of the groups' means and sample variances.
    """
    done = train_natively(x, gamma, beta, epsilon, layout, epilogue)
    if done is not None:
        y, statistics = done
        factor: Any = bessel(ops, float(layout.count))
    else:
        layout = plan_in_memory(tuple(x.shape), x.stride(), layout.axes, layout.ghost)
        dense = x if layout.order is None else x.permute(layout.order)
        y, statistics = _by_torch(dense, gamma, beta, epsilon, layout)
        # PyTorch's variances are the sample's.
        y, factor = y if layout.order is None else ops.as_own(y.permute(layout.inverse_order)), 1.0
        y = follow(ops, y, epilogue)
    if running_mean is not None and running_variance is not None:
        cpu_kernels.move_averages((running_mean, running_variance), statistics, factor, momentum)
    return y


def _by_torch(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, layout: Layout
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """y, and the groups' means and sample variances, each [G, C]."""
    groups, channels = layout.ghosts, layout.channels
    # With a momentum of 1, running averages become the batch's own statistics.
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


def train_natively(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    epsilon: float,
    layout: Layout,
    epilogue: Epilogue[Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]] | None:
    """y, and the batch's mean and variance (the population's), each [G, C]; None if no kernel can be used."""
    activation, residual = (None, None) if epilogue is None else epilogue[:2]
    kernels = cpu_kernels.find(layout, x, gamma, beta, residual)
    # Numbers with gaps between them would have to be copied.
    if kernels is None or (kernels.layout.order is None and not x.is_contiguous()):
        return None
    if is_recorded(x, gamma, beta, residual):
        # The statistics leave the function in this list, and so have no gradient.
        left: list[Tensor] = []
        step = Step(epsilon, layout, activation)
        y: Tensor = _Train.apply(kernels, step, left, x, gamma, beta, residual)  # pyright: ignore[reportAssignmentType]
        statistics = left.pop()
    else:
        y, statistics = cpu_kernels.train_by(kernels, x, gamma, beta, epsilon, epilogue)
    return y, (statistics[0], statistics[2])


class Step(NamedTuple):
    """What a step is besides its tensors."""

    epsilon: float
    layout: Layout
    activation: Activation | None

    def epilogue(self, residual: Tensor | None, statistics: Tensor | None = None) -> Epilogue[Tensor] | None:
        """What follows the affine map; for the gradient, given the statistics, only if there is an activation."""
        if self.activation is None and (residual is None or statistics is not None):
            return None
        if statistics is None:
            return Epilogue(self.activation, residual)
        return Epilogue(self.activation, residual, statistics[3], statistics[4])


class _Train(torch.autograd.Function):
    """Like `WithGradient` in `autodiff`, but without making functions for each step."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        step: Step,
        left: list[Tensor],
        x: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        residual: Tensor | None,
    ) -> Tensor:
        y, statistics = cpu_kernels.train_by(kernels, x, gamma, beta, step.epsilon, step.epilogue(residual))
        left.append(statistics)
        # The gradient reads the residual and beta only through an activation.
        ctx.save_for_backward(x, gamma, *([None, None] if step.activation is None else [beta, residual]))
        ctx.rest = step, statistics, residual is not None
        ctx.beta_dtype = None if beta is None else beta.dtype
        return y

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        step, statistics, has_residual = ctx.rest
        _, _, _, needs_dx, *_ = ctx.needs_input_grad
        x, gamma, beta, residual = ctx.saved_tensors
        dx, sums, pulled = gradients_of(outputs[0], x, gamma, beta, residual, statistics, step, needs_dx)
        parameters = parameter_gradients(sums, gamma, ctx.beta_dtype)
        return None, None, None, dx, *parameters, pulled if has_residual else None


def gradients_of(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    residual: Tensor | None,
    statistics: Tensor,
    step: Step,
    needs_dx: bool = True,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """dx, if it is needed; Σh and Σh·x̂ as one tensor [2, G, C]; and the gradient of a residual, if there is one.

    beta and the residual are read only if there is an activation.
    """
    found = (x, dy, statistics, residual)
    kernels = None if torch.is_grad_enabled() else cpu_kernels.find(step.layout, *found)
    if kernels is None:
        # These can be differentiated to any order: PyTorch's own kernel is wrong from the third on.
        return _plain_gradients(dy, x, gamma, beta, residual, step)
    epilogue = step.epilogue(residual, statistics)
    if needs_dx:
        known = statistics.unbind()[:4]
        dx, sums, pulled = cpu_kernels.gradients_by(kernels, dy, x, known, step.epsilon, epilogue)
        return dx, sums, dy if pulled is None else pulled
    mean, rest, variance = statistics[:3]
    host, center, pulled = Host(kernels), as_numpy(mean), dy
    if epilogue is None:
        sums = host.grad_sums(dy, x, center, step.layout)
    else:
        known = Epilogue(epilogue.activation, residual, *map(as_numpy, statistics[3:5]))
        *sums, pulled = host.pulled_sums(dy, x, center, step.layout, known, residual is not None)
    total, centered = map(as_tensor, sums)
    products = (centered - rest * total) * torch.rsqrt(variance + step.epsilon)
    return None, torch.stack((total, products)), dy if pulled is None else pulled


def _plain_gradients(
    dy: Tensor, x: Tensor, gamma: Tensor | None, beta: Tensor | None, residual: Tensor | None, step: Step
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in plain operations, from the inputs alone."""
    epsilon, layout, activation = step
    _, moments, scale = fused.train(composed, x, gamma, None, epsilon, layout)
    known = moments.center, moments.offset, moments.variance, scale
    if activation is not None:
        shift = shift_of(ops, scale, moments.offset, None, gamma, beta, layout)
        epilogue = Epilogue(activation, residual, scale, shift)
        dy = pull_through(ops, dy, x, moments.center, layout, epilogue)
    dx, *sums = fused.gradients(composed, dy, x, *known, epsilon, layout)
    return dx, torch.stack(sums), dy.to(x.dtype)


def parameter_gradients(
    sums: Tensor, gamma: Tensor | None, beta_dtype: torch.dtype | None
) -> tuple[Tensor | None, Tensor | None]:
    """Those of gamma and beta, from Σdy and Σdy·x̂ per group."""
    dbeta, dgamma = (sums[:, 0] if sums.shape[1] == 1 else sums.sum(1)).unbind()
    return (
        None if gamma is None else dgamma.to(gamma.dtype),
        None if beta_dtype is None else dbeta.to(beta_dtype),
    )
