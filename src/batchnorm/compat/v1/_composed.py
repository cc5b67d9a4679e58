"""A training step that goes through a subclass's hooks, in operations that TensorFlow differentiates by itself."""

from dataclasses import replace
from typing import Any

import tensorflow as tf

from batchnorm._core.adjustment import Adjustment
from batchnorm._core.engine import Batch, Inputs, Moments
from batchnorm._core.given import given
from batchnorm._core.moments import summarize
from batchnorm._core.step import train
from batchnorm._engines.tensorflow import engine, ops
from batchnorm._tf1.normalize import Call, Contribution, infer_by, plan, train_if
from batchnorm._tf1.scalars import in_dtype
from batchnorm._tf1.variables import flat
from batchnorm.compat.v1._hooks import MOMENTS, RENORM, overrides, with_mask, with_size
from batchnorm.layout import Layout
from batchnorm.options import Ghost, Options

__all__ = ["normalize_by_hooks"]

Tensor = Any


def normalize_by_hooks(
    layer: Any, options: Options, call: Call, mask: Tensor | None
) -> tuple[Tensor, Contribution | None]:
    """y, and what the batch contributes to the averages, or None if the call is known not to train.

    Like `normalize`, but with hooks.
    """
    options = in_dtype(options, ops.stat_dtype(call.x))
    if call.training is False:
        return infer_by(options, call), None
    if call.training is not True and options.ghost is not None:
        # Inference accepts batches that the group size does not divide, so groups cannot be made before the choice.
        return train_if(options, call, lambda: _train(layer, options, call, mask)[:2])
    y, batch, corrections = _train(layer, options, call, mask)
    if call.training is True:
        return y, lambda: batch
    # As in the original, what a hook creates is outside the condition, so that the program can use it elsewhere.
    inferred = _corrected(call, corrections)
    # Only y is chosen: a condition runs everything that it captures, and the batch's statistics may wait for updates.
    y = tf.cond(call.training, lambda: tf.identity(y), lambda: infer_by(options, inferred))
    counted = call.training if batch.has_weight is None else tf.logical_and(call.training, batch.has_weight)
    chosen = batch._replace(has_weight=tf.broadcast_to(counted, tf.shape(batch.mean)))
    return y, lambda: chosen


def _corrected(call: Call, corrections: tuple[Tensor, Tensor] | None) -> Call:
    """The call with r and d, which a hook gives for inference too, folded into gamma and beta: γ·(r·x̂ + d) + β."""
    if corrections is None:
        return call
    r, d = corrections
    gamma, beta = (1.0 if call.gamma is None else call.gamma), (0.0 if call.beta is None else call.beta)
    return call._replace(gamma=gamma * r, beta=gamma * d + beta)


def _train(
    layer: Any, options: Options, call: Call, mask: Tensor | None
) -> tuple[Tensor, Batch[Any], tuple[Tensor, Tensor] | None]:
    """y, the batch, and r and d if a hook has given them."""
    layout = plan(call.x, options)
    weights, adjustment = call.weights, call.adjustment
    if overrides(layer, *MOMENTS):
        moments, weights = _moments(layer, options, layout, call.x, mask), None
    else:
        moments = engine.composed.moments(call.x, weights, layout)
    told, corrections = None, None
    if options.renorm is not None and overrides(layer, *RENORM):
        batch = summarize(ops, options, moments, layout)
        size = tf.shape(call.x)[0] if layer._support_zero_size_input() else None
        shape = layer.moving_mean.shape
        mean, variance = (tf.reshape(value, shape) for value in batch[:2])
        r, d, *told = with_size(layer._renorm_correction_and_moments, mean, variance, call.training, size)
        corrections = tf.stop_gradient(flat(r)), tf.stop_gradient(flat(d))
        # y = γ·(a_s·(r·x̂ + d) + a_b) + β: r and d act like an adjustment, applied before the other one.
        channels = [size if axis in layout.axes else 1 for axis, size in enumerate(layout.shape)]
        user: tuple[Any, Any] = (1.0, 0.0) if adjustment is None else adjustment
        scale, bias = user
        r_shaped, d_shaped = (tf.reshape(value, channels) for value in corrections)
        adjustment = Adjustment[Any](r_shaped * scale, d_shaped * scale + bias)
        options = replace(options, renorm=None)
    inputs = Inputs(call.x, call.gamma, call.beta, weights, dict(call.state))
    y, batch = train(given(engine, moments), options, layout, inputs, adjustment)
    if told is not None:
        mean, variance = (flat(value) for value in told)
        batch = Batch(mean, variance, variance, batch.has_weight)
    return y, batch, corrections


def _moments(layer: Any, options: Options, layout: Layout, x: Tensor, mask: Tensor | None) -> Moments[Any]:
    """What the layer's `_moments` returns, by group and channel."""
    x, kept, keep = tf.cast(x, layer._param_dtype), set(layout.axes), len(layout.axes) > 1
    if options.ghost is not None:
        x, kept, keep = _grouped(x, options.ghost), {1, *(axis + 1 for axis in kept)}, True
        mask = None if mask is None else _grouped(mask, options.ghost)
    reduced = [axis for axis in range(x.shape.rank) if axis not in kept]
    dtype, shape = ops.stat_dtype(x), (layout.ghosts, layout.channels)
    mean, variance = (
        ops.reshape(ops.cast(value, dtype), shape)
        for value in with_mask(layer._moments, x, reduced, keep_dims=keep, mask=mask)
    )
    count = ops.as_float(layout.count, dtype)
    return Moments(count, count, mean, variance, mean, ops.zeros_like(mean))


def _grouped(x: Tensor, ghost: Ghost) -> Tensor:
    """[batch, ...] as [examples in a group, groups, ...]."""
    rest = list(ops.shape(x)[1:])
    if ghost.order == "interleaved":
        return tf.reshape(x, [ghost.size, -1, *rest])
    x = tf.reshape(x, [-1, ghost.size, *rest])
    return tf.transpose(x, [1, 0, *range(2, x.shape.rank)])
