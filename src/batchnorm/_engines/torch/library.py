"""A plain training step as operations that PyTorch's compilers see: `batchnorm::train` and `batchnorm::gradients`.

A compiled graph holds them where the numbers are in the memory of the CPU, and calls our kernels there. Exported
programs hold standard operations only, so that whoever loads one needs nothing of ours.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import has_static_value, statically_known_true

from batchnorm._core import fused
from batchnorm._core.engine import Moments
from batchnorm._engines.torch import kernels, native, ops
from batchnorm._engines.torch.block import inverse_order, memory_order
from batchnorm._engines.torch.private import in_transform
from batchnorm._engines.torch.reference import composed
from batchnorm._engines.torch.tracing import EXACT_TYPES
from batchnorm._kernels import available
from batchnorm.layout import Layout, plan_layout, product
from batchnorm.options import Ghost

__all__ = ["prefers_library", "train"]

Tensor = torch.Tensor

# A module has the functions that the protocol asks for, with narrower types.
_ops: Any = ops
# Asked while nothing is being traced: compilers warn of caches.
AVAILABLE = available()
# Smallest input size for which a call pays off although the compiler cannot fuse it with its neighbors, and the number
# of examples assumed for a batch of unknown size.
LARGE_INPUT = 262_144
USUAL_BATCH = 64


def prefers_library(x: Tensor) -> bool:
    """Whether x is being compiled, and a plain training step on it is quicker by our kernels than by fused loops.

    Sizes that the compiler does not know are not asked for: it would recompile for each answer.
    """
    return (
        AVAILABLE
        and torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
        and not in_transform()
        and type(x) in EXACT_TYPES
        and x.device.type == "cpu"
        and x.dtype in kernels.FLOATS
        and not statically_known_true(_size(x) < LARGE_INPUT)
    )


def _size(x: Tensor) -> Any:
    """Numbers in x, or in a batch of the usual size if x's is unknown; a symbol if other sizes are unknown too."""
    size = x.numel()
    return size if has_static_value(size) else product(x.shape[1:]) * USUAL_BATCH


def train(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, layout: Layout
) -> tuple[Tensor, Moments[Tensor], Tensor]:
    """y, the moments and the scale, which are constants of the gradient."""
    ghost = layout.ghost
    size, interleaved = (0, False) if ghost is None else (ghost.size, ghost.order == "interleaved")
    y, statistics = _train(x, gamma, beta, list(layout.axes), size, interleaved, float(epsilon))
    center, offset, variance, scale = statistics.detach().unbind()
    total = _ops.as_float(layout.count, scale.dtype)
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
    order = memory_order(x, axes)
    dense, layout = _in_memory(x, order, axes, ghost_size, interleaved)
    found = native.find(layout, dense, gamma, beta)
    if found is None:
        y, moments, scale = fused.train(composed, dense, gamma, beta, epsilon, layout)
        return _as_before(y, order, x), torch.stack((moments.center, moments.offset, moments.variance, scale))
    room = _room(x, order)
    y, statistics = native.train_by(found, dense, gamma, beta, epsilon, layout, room)
    return y if room is not None else _as_before(y, order, x), statistics


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
    order = memory_order(x, axes)
    dense, layout = _in_memory(x, order, axes, ghost_size, interleaved)
    dy = dy if order is None else dy.permute(order)
    found = native.find(layout, dense, dy, statistics)
    if found is None:
        center, offset, variance, _ = statistics.unbind()
        dx, *both = kernels.pull_plainly(dy, dense, gamma, center, offset, variance, epsilon, layout)
        return _as_before(dx, order, x), torch.stack(both)
    room = _room(x, order)
    dx, sums = native.gradients_by(found, dy, dense, statistics.unbind(), epsilon, layout, room)
    return dx if room is not None else _as_before(dx, order, x), sums


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


def _pull(ctx: Any, dy: Tensor, unused: Tensor | None) -> tuple[Any, ...]:
    del unused
    x, gamma, statistics = ctx.saved_tensors
    dx, sums = _gradients(dy, x, gamma, statistics, *ctx.asked)
    dbeta, dgamma = sums.sum(1).unbind()
    return (
        dx,
        None if gamma is None else dgamma.to(gamma.dtype),
        None if ctx.beta_dtype is None else dbeta.to(ctx.beta_dtype),
        *[None] * len(ctx.asked),
    )


_train.register_autograd(_pull, setup_context=_keep)


def _in_memory(
    x: Tensor, order: tuple[int, ...] | None, axes: Sequence[int], ghost_size: int, interleaved: bool
) -> tuple[Tensor, Layout]:
    """x in the order of its memory, without gaps, and the layout there."""
    if order is not None:
        x, axes = x.permute(order), sorted(order.index(axis) for axis in axes)
    ghost = Ghost(ghost_size, "interleaved" if interleaved else "contiguous") if ghost_size else None
    return x.contiguous(), plan_layout(x.shape, axes, ghost)


def _room(x: Tensor, order: tuple[int, ...] | None) -> Tensor | None:
    """The promised output, if its memory order is the one that the kernels write; otherwise None."""
    promised = torch.empty_like(x)
    return promised if order is not None or promised.is_contiguous() else None


def _as_before(y: Tensor, order: tuple[int, ...] | None, x: Tensor) -> Tensor:
    """y in the axes of x, and the strides that were promised."""
    if order is not None:
        y = y.permute(inverse_order(order))
    return torch.empty_like(x).copy_(y)


def _statistics(number: int, x: Tensor, axes: Sequence[int], ghost_size: int) -> Tensor:
    groups = x.shape[0] // ghost_size if ghost_size else 1
    return x.new_empty((number, groups, product(x.shape[axis] for axis in axes)), dtype=ops.stat_dtype(x))
