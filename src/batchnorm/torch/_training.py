"""One training step of a layer by the core, and inference along other axes than the kernel's."""

from collections.abc import Callable
from typing import Any

import torch

from batchnorm._core import step
from batchnorm._core.adjustment import Adjustment
from batchnorm._engines.protocol import Inputs
from batchnorm._engines.torch import engine, ways
from batchnorm._engines.torch.block import inverse_order, plan_in_memory
from batchnorm._engines.torch.plain import check_epsilon, grouped_batch_norm, refuse_single
from batchnorm._engines.torch.tracing import is_traced
from batchnorm._engines.ways import insist
from batchnorm.errors import refusal
from batchnorm.layout import Layout, canonical_axes, plan_layout
from batchnorm.options import Options
from batchnorm.torch import _recompute, _state
from batchnorm.torch._settings import options_of, read_clip
from batchnorm.torch._weights import merge_weights

__all__ = ["infer", "train", "train_grouped"]

Tensor = torch.Tensor

ops = engine.ops


def train(layer: Any, x: Tensor, weight: Tensor | None, mask: Tensor | None) -> Tensor:
    """Normalize by the batch, and write the running statistics where the layer tracks them."""
    check_epsilon(layer.eps)
    dtype = ops.stat_dtype(x)
    options = layer.options
    axes = canonical_axes(options.axes, x.dim())
    weights = merge_weights(x.shape, axes, weight, mask, dtype)
    # A layer that has no running statistics takes the batch's in evaluation too, where there are no ghost batches.
    ghost = options.ghost if layer.training else None
    adjustment = None
    if layer.training and layer.adjustment is not None:
        adjustment = _call(layer.adjustment, x, dtype)
    if is_traced():
        order, layout = None, plan_layout(x.shape, axes, ghost, cached=not torch.compiler.is_compiling())
    else:
        order, layout = plan_in_memory(_sizes(x), x.stride(), options.axes, ghost)
    _check_channels(layer, x, layout)
    if order is not None:
        x = x.permute(order)
        weights = None if weights is None else weights.permute(order)
        adjustment = None if adjustment is None else Adjustment(*(a.permute(order) for a in adjustment))
    if layout.count == 1:
        refuse_single(x)
    insist(ways, options, layout, x, weights, enough=("native", "framework"))
    state, count = _recompute.recall(layer, (_state.read(layer, options, dtype), layer.num_batches_tracked))
    options = _at_step(layer, options, count)
    y, batch = step.train(engine, options, layout, _inputs(layer, x, weights, state), adjustment)
    if layer.training and layer.track_running_stats and not _recompute.is_frozen():
        # Nothing was recalled where they move, so that what was read is what they hold.
        _state.advance(layer, options, batch, state)
    return y if order is None else y.permute(inverse_order(order))


def train_grouped(layer: Any, x: Tensor) -> Tensor:
    """The same by a kernel alone, for layers with ghost batches or other axes and no more."""
    check_epsilon(layer.eps)
    options = layer.options
    order, layout = plan_in_memory(
        _sizes(x), x.stride(), options.axes, options.ghost if layer.training else None
    )
    _check_channels(layer, x, layout)
    if layout.count == 1:
        refuse_single(x)
    x = x if order is None else x.permute(order)
    mean = variance = None
    if layer.training and layer.track_running_stats and not _recompute.is_frozen():
        mean, variance = layer.running_mean, layer.running_var
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.add_(1)
    gamma, beta = _parameters(layer, ops.stat_dtype(x))
    y = grouped_batch_norm(x, gamma, beta, mean, variance, layer.momentum, layer.eps, layout)
    return y if order is None else y.permute(inverse_order(order))


def infer(layer: Any, x: Tensor) -> Tensor:
    """Normalize by the running statistics."""
    options = layer.options
    axes = canonical_axes(options.axes, x.dim())
    state = _state.read(layer, options, ops.stat_dtype(x))
    layout = plan_layout(x.shape, axes, cached=not torch.compiler.is_compiling())
    _check_channels(layer, x, layout)
    return step.infer(engine, options, layout, _inputs(layer, x, None, state))


def _inputs(layer: Any, x: Tensor, weights: Tensor | None, state: dict[str, Tensor]) -> Inputs[Tensor]:
    return Inputs(x, *_parameters(layer, ops.stat_dtype(x)), weights, state)


def _parameters(layer: Any, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    gamma, beta = layer.weight, layer.bias
    if gamma is not None and gamma.dtype is not dtype:
        gamma = gamma.to(dtype)
    if beta is not None and beta.dtype is not dtype:
        beta = beta.to(dtype)
    return gamma, beta


def _sizes(x: Tensor) -> tuple[int, ...]:
    """While `torch.jit.trace` records, sizes are tensors."""
    traced = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return tuple(map(int, x.shape)) if traced else x.shape


def _check_channels(layer: Any, x: Tensor, layout: Layout) -> None:
    if layout.channels != layer.num_features:
        raise ValueError(
            refusal(
                f"An input of shape {tuple(x.shape)} came to a layer with num_features={layer.num_features}",
                f"It has {layout.channels} channels",
                "Pass the product of the sizes of the channel axes as num_features, or other axes",
            )
        )


def _at_step(layer: Any, options: Options, count: Tensor | None) -> Options:
    """The options with the bounds that a schedule has for this step."""
    schedule: Any = layer.settings.renorm_clipping
    if options.renorm is None or not callable(schedule):
        return options
    clip = read_clip(schedule(count))  # pyright: ignore[reportArgumentType]
    with_gamma, with_beta = layer.weight is not None, layer.bias is not None
    return options_of(layer.settings, layer.momentum, layer.eps, clip, with_gamma, with_beta)


def _call(function: Callable[[Any], Any], x: Tensor, dtype: torch.dtype) -> Adjustment[Tensor]:
    """The factor and the offset for an input of this shape, of its rank and the statistics' dtype."""
    result = function(x.shape)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError(
            refusal(
                f"The adjustment returned {result!r}",
                "It takes a factor and an offset",
                "Return (scale, bias)",
            )
        )
    return Adjustment(*(_of_rank(value, x, dtype) for value in result))


def _of_rank(value: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
    value = torch.as_tensor(value, dtype=dtype, device=x.device)
    if value.dim() > x.dim():
        raise ValueError(
            refusal(
                f"The adjustment returned a tensor of shape {tuple(value.shape)}",
                f"It must broadcast to the input, whose shape is {tuple(x.shape)}",
                "Return for instance one value per example, [batch, 1, ..., 1]",
            )
        )
    return value.reshape(*([1] * (x.dim() - value.dim())), *value.shape)
