"""One training step of a layer by the core, and inference along other axes than the kernel's."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from batchnorm._core import step
from batchnorm._core.adjustment import Adjustment
from batchnorm._core.engine import Epilogue, Inputs
from batchnorm._engines.dispatch import require_fused
from batchnorm._engines.torch import dispatch, engine, recompute
from batchnorm._engines.torch.aten import FLOATS
from batchnorm._engines.torch.fused_step import grouped_batch_norm
from batchnorm._engines.torch.inference import for_gradient
from batchnorm._engines.torch.ops import as_own
from batchnorm._engines.torch.tracing import EXACT_TYPES, is_traced, snapshot
from batchnorm._faces.adjustment import call_adjustment
from batchnorm._faces.clip import check_bounds, read_clip
from batchnorm._faces.residual import check_same_shape
from batchnorm._validation import check_floating
from batchnorm.activation import Activation
from batchnorm.errors import format_error
from batchnorm.layout import Layout, canonical_axes, plan_in_memory, plan_layout
from batchnorm.options import Options
from batchnorm.torch import _state
from batchnorm.torch._settings import options_of
from batchnorm.torch._weights import merge_weights

__all__ = ["check_step", "epilogue_of", "infer", "train", "train_grouped"]

Tensor = torch.Tensor

ops = engine.ops


def epilogue_of(
    layer: Any, x: Tensor, residual: Tensor | None, activation: Activation | None
) -> Epilogue[Tensor] | None:
    """What follows the affine map of a call; None if nothing does."""
    if residual is not None:
        check_same_shape(tuple(residual.shape), tuple(x.shape))
        residual = residual.to(x.dtype)
    activation = layer.activation if activation is None else activation
    return None if activation is None and residual is None else Epilogue(activation, residual)


def train(
    layer: Any,
    x: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    epilogue: Epilogue[Tensor] | None,
) -> Tensor:
    """Normalize by the batch, and update the running statistics if the layer tracks them."""
    dtype = ops.stat_dtype(x)
    known = _state.running(layer)[0] is not None
    options = layer.options if known else _state.alone(layer.options)
    axes = canonical_axes(options.axes, x.dim())
    weights = merge_weights(x.shape, axes, weight, mask, dtype)
    # A layer that has no running statistics uses the batch's in evaluation too, without ghost batches.
    ghost = options.ghost if layer.training else None
    adjustment = None
    if layer.training and layer.adjustment is not None:
        adjustment = _call(layer.adjustment, x, dtype)
    # The strides of a subclass, such as DTensor, may not describe its memory.
    if is_traced() or type(x) not in EXACT_TYPES:
        sizes = _sizes(x, axes)
        layout = plan_layout(sizes, axes, ghost, cached=not torch.compiler.is_compiling())
    else:
        layout = plan_in_memory(x.shape, x.stride(), options.axes, ghost)
    state = _state.read(layer, options, dtype) if known else _state.absent(options, x, layout.channels, dtype)
    given = _parameters(layer, dtype)
    _check(layer, x, layout, *given, *state.values())
    order, residual = layout.order, None if epilogue is None else epilogue.residual
    if order is not None:
        x = x.permute(order)
        weights = None if weights is None else weights.permute(order)
        adjustment = None if adjustment is None else Adjustment(*(a.permute(order) for a in adjustment))
        residual = None if residual is None else residual.permute(order)
    check_step(x, layer.eps, layout.count == 1)
    require_fused(dispatch, options, layout, x, weights, enough=("native", "framework"))
    state, count = recompute.recall(layer, (state, layer.num_batches_tracked))
    options = _with_activation(_at_step(layer, options, count), epilogue)
    inputs = Inputs(x, *given, weights, state, residual=residual)
    y, batch = step.train(engine, options, layout.reordered, inputs, adjustment)
    if _state.moves(layer):
        # If they move, nothing was recalled, so what was read is what they hold.
        _state.advance(layer, options, batch, state)
    return y if order is None else as_own(y.permute(layout.inverse_order))


def train_grouped(layer: Any, x: Tensor, epilogue: Epilogue[Tensor] | None) -> Tensor:
    """The same by a kernel alone, for layers with ghost batches or other axes and no more."""
    options = layer.options
    ghost = options.ghost if layer.training else None
    # The kernels find the order of memory themselves. For a contiguous x both plans are the same; this one is faster.
    if x.is_contiguous():
        layout = plan_in_memory(x.shape, x.stride(), options.axes, ghost)
    else:
        layout = plan_layout(x.shape, options.axes, ghost)
    mean, variance = _state.running(layer)
    gamma, beta = _parameters(layer, ops.stat_dtype(x))
    _check(layer, x, layout, gamma, beta, mean, variance)
    check_step(x, layer.eps, layout.count == 1)
    if not _state.moves(layer):
        mean = variance = None
    elif layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
    given = x, gamma, beta, mean, variance, layer.momentum, layer.eps, layout
    return grouped_batch_norm(*given, epilogue)


def infer(layer: Any, x: Tensor, epilogue: Epilogue[Tensor] | None) -> Tensor:
    """Normalize by the running statistics."""
    _state.running(layer)
    # Evaluation needs only the statistics that all layers have.
    options = _with_activation(_state.alone(layer.options), epilogue)
    axes = canonical_axes(options.axes, x.dim())
    state = _state.read(layer, options, ops.stat_dtype(x))
    state = dict(zip(state, for_gradient(tuple(state.values()), x, layer.weight, layer.bias), strict=True))
    layout = plan_layout(_sizes(x, axes), axes, cached=not torch.compiler.is_compiling())
    given = _parameters(layer, ops.stat_dtype(x))
    _check(layer, x, layout, *given, *state.values())
    residual = None if epilogue is None else epilogue.residual
    return step.infer(engine, options, layout, Inputs(x, *given, None, state, residual=residual))


def check_step(x: Tensor, epsilon: float, is_single: bool) -> None:
    """Refuse what torch refuses in training: single numbers, whose variance is zero, and an eps of zero or less."""
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
                "It keeps the square root away from zero if the numbers of a channel are equal",
                "Pass a small positive number such as 1e-5",
            )
        )


def _parameters(layer: Any, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    gamma, beta = layer.weight, layer.bias
    if gamma is not None and gamma.dtype is not dtype:
        gamma = gamma.to(dtype)
    if beta is not None and beta.dtype is not dtype:
        beta = beta.to(dtype)
    return gamma, beta


def _sizes(x: Tensor, axes: Sequence[int]) -> Sequence[Any]:
    """While `torch.jit.trace` records, sizes are tensors. Channel sizes stay ints: the parameters have them too."""
    if not torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return x.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # pyright: ignore[reportPrivateImportUsage]
        return tuple(int(size) if axis in axes else size for axis, size in enumerate(x.shape))


def _check(layer: Any, x: Tensor, layout: Layout, *values: Tensor | None) -> None:
    """Check the input, and the tensors that the layer has now: programs that prune a layer assign shorter ones."""
    if x.dtype not in FLOATS:
        check_floating(ops, x)
    channels = layout.channels
    for value in values:
        if value is not None and value.dim() and value.size(0) != channels:
            raise ValueError(
                format_error(
                    f"An input of shape {tuple(x.shape)} was given to a layer with num_features={layer.num_features}",
                    f"It has {channels} channels, and a parameter or buffer has {value.size(0)} numbers",
                    "Pass the product of the sizes of the channel axes as num_features, or other axes; if you assign "
                    "shorter tensors to a layer, assign all of them",
                )
            )


def _with_activation(options: Options, epilogue: Epilogue[Tensor] | None) -> Options:
    """The options with the activation of this call."""
    activation = None if epilogue is None else epilogue.activation
    return options if activation == options.activation else replace(options, activation=activation)


def _at_step(layer: Any, options: Options, count: Tensor | None) -> Options:
    """The options with the bounds that a schedule has for this step."""
    schedule: Any = layer.settings.renorm_clipping
    if options.renorm is None or not callable(schedule):
        return options
    if count is None:
        raise ValueError(
            format_error(
                "A schedule of renorm's bounds was asked for, and num_batches_tracked is None",
                "The bounds are a function of the number of steps so far, which is not counted then",
                "Keep num_batches_tracked, or pass renorm_clipping bounds that are numbers",
            )
        )
    # The step is counted before the gradient is computed, which may need the bounds.
    count = snapshot({"count": count})["count"]
    clip = check_bounds(read_clip(schedule(count)))  # pyright: ignore[reportArgumentType]
    return options_of(layer, layer.settings, clip)


def _call(function: Callable[[Any], Any], x: Tensor, dtype: torch.dtype) -> Adjustment[Tensor]:
    """The factor and the offset for an input of this shape, of its rank and the statistics' dtype."""

    def convert(value: Any) -> Tensor:
        value = torch.as_tensor(value, dtype=dtype, device=x.device)
        return value.reshape(*([1] * (x.dim() - value.dim())), *value.shape)

    return call_adjustment(function, x.shape, x.dim(), convert)
