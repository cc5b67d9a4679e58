"""A plain training step as two operations of a compiled graph: `batchnorm::train` and `batchnorm::gradients`.

Exported programs hold standard operations only, so that they load without this package.
"""

from collections.abc import Sequence
from typing import Any

import torch

from batchnorm._core import fused
from batchnorm._core.affine import shift_of
from batchnorm._core.engine import Epilogue, Moments
from batchnorm._engines.torch import cpu_kernels, ops
from batchnorm._engines.torch.composed import composed
from batchnorm._engines.torch.fused_step import Step, gradients_of, parameter_gradients
from batchnorm._engines.torch.private import is_view
from batchnorm.activation import Activation
from batchnorm.layout import Layout, plan_layout, product
from batchnorm.options import Ghost

__all__ = ["train_as_operation"]

Tensor = torch.Tensor


def train_as_operation(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    epsilon: float,
    layout: Layout,
    epilogue: Epilogue[Tensor] | None,
) -> tuple[Tensor, Moments[Tensor], Tensor]:
    """y, the moments and the scale, which are constants of the gradient."""
    ghost = layout.ghost
    size, interleaved = (0, False) if ghost is None else (ghost.size, ghost.order == "interleaved")
    activation, residual = (None, None) if epilogue is None else epilogue[:2]
    name, slope = ("identity", 0.0) if activation is None else (activation.name, activation.slope or 0.0)
    asked = list(layout.axes), size, interleaved, float(epsilon), name, slope
    y, statistics = _train(x, gamma, beta, residual, *asked)
    center, offset, variance, scale, _ = statistics.detach().unbind()
    total = ops.as_float(layout.count, scale.dtype)
    return y, Moments(total, total, center + offset, variance, center, offset), scale


@torch.library.custom_op("batchnorm::train", mutates_args=())
def _train(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    residual: Tensor | None,
    axes: Sequence[int],
    ghost_size: int,
    interleaved: bool,
    epsilon: float,
    activation: str,
    slope: float,
) -> tuple[Tensor, Tensor]:
    """y, and center, offset, variance, scale and shift as one tensor [5, G, C]."""
    step = _step_of(x, axes, ghost_size, interleaved, epsilon, activation, slope)
    kernels = cpu_kernels.find(step.layout, x, gamma, beta, residual)
    after = Epilogue(step.activation, residual)
    if kernels is not None:
        y, statistics = cpu_kernels.train_by(kernels, x, gamma, beta, epsilon, after)
    else:
        y, moments, scale = fused.train(composed, x, gamma, beta, epsilon, step.layout, after)
        shift = shift_of(ops, scale, moments.offset, None, gamma, beta, step.layout)
        statistics = torch.stack((moments.center, moments.offset, moments.variance, scale, shift))
    return _as_promised(y, x), statistics


@torch.library.custom_op("batchnorm::gradients", mutates_args=())
def _gradients(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    residual: Tensor | None,
    statistics: Tensor,
    axes: Sequence[int],
    ghost_size: int,
    interleaved: bool,
    epsilon: float,
    activation: str,
    slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, Σh and Σh·x̂ as one tensor [2, G, C], and h if there is an activation and a residual, else nothing."""
    step = _step_of(x, axes, ghost_size, interleaved, epsilon, activation, slope)
    with torch.no_grad():
        dx, sums, pulled = gradients_of(dy, x, gamma, beta, residual, statistics, step)
    kept = x.new_empty(0) if residual is None else _as_promised(pulled, x)
    return _as_promised(dx, x), sums, kept  # pyright: ignore[reportArgumentType]


@_train.register_fake
def _(
    x: Tensor, gamma: Any, beta: Any, residual: Any, axes: Sequence[int], ghost_size: int, *rest: Any
) -> tuple[Tensor, Tensor]:
    del gamma, beta, residual, rest
    return torch.empty_like(x), _statistics(5, x, axes, ghost_size)


@_gradients.register_fake
def _(
    dy: Tensor,
    x: Tensor,
    gamma: Any,
    beta: Any,
    residual: Tensor | None,
    statistics: Tensor,
    axes: Sequence[int],
    ghost_size: int,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    del dy, gamma, beta, statistics, rest
    kept = x.new_empty(0) if residual is None else torch.empty_like(x)
    return torch.empty_like(x), _statistics(2, x, axes, ghost_size), kept


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, gamma, beta, residual, *asked = inputs
    # Without an activation the gradient is that of y for the residual, and reads neither that nor beta.
    ctx.is_linear = asked[-2] == "identity"
    known = (None, None) if ctx.is_linear else (beta, residual)
    ctx.save_for_backward(x, gamma, *known, output[1])
    ctx.asked, ctx.beta_dtype, ctx.has_residual = (
        asked,
        None if beta is None else beta.dtype,
        residual is not None,
    )


def _backward(ctx: Any, dy: Tensor, unused: Tensor | None) -> tuple[Any, ...]:
    del unused
    x, gamma, beta, residual, statistics = ctx.saved_tensors
    dx, sums, pulled = _gradients(dy, x, gamma, beta, residual, statistics, *ctx.asked)
    dresidual = None if not ctx.has_residual else dy if ctx.is_linear else pulled
    parameters = parameter_gradients(sums, gamma, ctx.beta_dtype)
    return dx, *parameters, dresidual, *[None] * len(ctx.asked)


_train.register_autograd(_backward, setup_context=_keep)


def _step_of(
    x: Tensor,
    axes: Sequence[int],
    ghost_size: int,
    interleaved: bool,
    epsilon: float,
    activation: str,
    slope: float,
) -> Step:
    ghost = Ghost(ghost_size, "interleaved" if interleaved else "contiguous") if ghost_size else None
    function = None if activation == "identity" else Activation(activation, slope)
    return Step(epsilon, plan_layout(x.shape, axes, ghost), function)


def _as_promised(y: Tensor, x: Tensor) -> Tensor:
    """y with the strides that the compiler was told of, as a tensor of its own."""
    promised = torch.empty_like(x)
    return y if y.stride() == promised.stride() and not is_view(y) else promised.copy_(y)


def _statistics(number: int, x: Tensor, axes: Sequence[int], ghost_size: int) -> Tensor:
    groups = x.shape[0] // ghost_size if ghost_size else 1
    return x.new_empty((number, groups, product(x.shape[axis] for axis in axes)), dtype=ops.stat_dtype(x))
