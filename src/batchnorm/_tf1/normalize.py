"""One call on a tensor: the core's training step, its inference step, or a choice between them at run time."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from batchnorm._core.adjustment import Adjustment
from batchnorm._core.engine import Batch, Inputs
from batchnorm._core.step import infer, train
from batchnorm._engines.tensorflow import engine, ops
from batchnorm._engines.tensorflow.graph_step import plain_step
from batchnorm._engines.tensorflow.inference import MOST_BROADCAST
from batchnorm._faces.adjustment import call_adjustment, check_dtype
from batchnorm._tf1.scalars import in_dtype
from batchnorm.errors import format_error
from batchnorm.layout import Layout, plan_layout
from batchnorm.options import Ghost, Options

__all__ = ["Call", "adjustment_for", "infer_by", "normalize", "plan"]


# A size known only at run time; its products are unknown too.
UNKNOWN = math.nan


class Call(NamedTuple):
    """What is normalized by what. `training` is a bool or a boolean tensor; gamma, beta and the state are [C]."""

    x: Any
    gamma: Any
    beta: Any
    state: Mapping[str, Any]
    training: Any
    weights: Any = None
    adjustment: Adjustment[Any] | None = None


def normalize(options: Options, call: Call) -> tuple[Any, Batch[Any] | None]:
    """y, and what the batch contributes to the averages, or None if the call is known not to train.

    If training is decided at run time, the batch does not count when it is False.
    """
    options = in_dtype(options, ops.stat_dtype(call.x))
    if isinstance(call.training, bool):
        return _train(options, call)[:2] if call.training else (infer_by(options, call), None)
    in_one_op = False

    def train_branch() -> tuple[Any, ...]:
        nonlocal in_one_op
        y, batch, in_one_op = _train(options, call)
        if in_one_op:
            total = tf.ones([], batch.mean.dtype) if batch.total is None else batch.total
            return y, batch.mean, batch.stored_variance, total
        counted = tf.constant(True) if batch.has_weight is None else batch.has_weight
        return y, *batch[:3], tf.broadcast_to(counted, tf.shape(batch.mean))

    def infer_branch() -> tuple[Any, ...]:
        mean, variance = call.state["moving_mean"], call.state["moving_variance"]
        if in_one_op:
            return infer_by(options, call), tf.identity(mean), tf.identity(variance), tf.zeros([], mean.dtype)
        idle = [tf.identity(mean), tf.identity(variance), tf.identity(variance)]
        return infer_by(options, call), *idle, tf.zeros_like(mean, tf.bool)

    y, *told = tf.cond(call.training, train_branch, infer_branch)
    y.set_shape(call.x.shape)
    if in_one_op:
        mean, estimate, total = told
        return y, Batch(mean, estimate, estimate, None, total=total)
    return y, Batch(*told)


def adjustment_for(function: Callable[[Any], Any], x: Any, dtype: Any) -> Adjustment[Any]:
    """What the user's function returns for the shape of x, as tensors of the parameters' dtype."""

    def convert(part: Any) -> Any:
        if tf.is_tensor(part):
            check_dtype(part.dtype.name, dtype.name)
        return tf.convert_to_tensor(part, dtype)

    return call_adjustment(function, tf.shape(x), x.shape.rank, convert)


def _train(options: Options, call: Call) -> tuple[Any, Batch[Any], bool]:
    """y, what the batch contributes to the averages, and whether one op computed them."""
    done = _train_in_one_op(options, call)
    return (*_train_by_core(options, call), False) if done is None else (*done, True)


def _train_by_core(options: Options, call: Call) -> tuple[Any, Batch[Any]]:
    layout = plan(call.x, options)
    inputs = Inputs(call.x, call.gamma, call.beta, call.weights, dict(call.state))
    return train(engine, options, layout, inputs, call.adjustment)


def _train_in_one_op(options: Options, call: Call) -> tuple[Any, Batch[Any]] | None:
    """A plain step in a TensorFlow 1 graph; None if the call needs more than that.

    A TensorFlow 1 graph runs node by node, so the nodes around the op cost time at small sizes.
    """
    plain = options.renorm is None and options.ghost is None and not options.debias_mean
    if not plain or call.weights is not None or call.adjustment is not None or options.fused is False:
        return None
    layout = plan_layout(_known_sizes(call.x), options.axes)
    if layout.count == 0 or tf.is_tensor(options.epsilon):
        return None
    done = plain_step(call.x, call.gamma, call.beta, options.epsilon, layout)
    if done is None:
        return None
    y, mean, variance = done
    total, estimate = None, variance
    if isinstance(layout.count, int):
        if options.variance == "sample":
            estimate = variance * (layout.count / max(layout.count - 1, 1))
    else:
        total = tf.cast(tf.size(call.x, tf.int64), mean.dtype)
        if options.variance == "sample":
            # N / (N − 1), from the count of all numbers, C·N; a single number per channel has no variance.
            estimate = variance * tf.math.divide_no_nan(total, total - float(layout.channels))
    return y, Batch(mean, variance, estimate, None, total=total)


def infer_by(options: Options, call: Call) -> Any:
    """y by the moving statistics."""
    bare = options.fused is not False and call.x.shape.rank <= MOST_BROADCAST
    layout = plan_layout(_known_sizes(call.x) if bare else ops.shape(call.x), options.axes)
    return infer(engine, options, layout, Inputs(call.x, call.gamma, call.beta, None, dict(call.state)))


def _known_sizes(x: Any) -> list[Any]:
    """The sizes known while the graph is built, for calls in which no operation needs the others."""
    return [UNKNOWN if size is None else size for size in x.shape.as_list()]


def plan(x: Any, options: Options) -> Layout:
    """The layout of a training step; a batch size known only at run time is checked there against ghost batches."""
    sizes = ops.shape(x)
    if options.ghost is not None and not isinstance(sizes[0], int):
        sizes = (_divisible(sizes[0], options.ghost), *sizes[1:])
    return plan_layout(sizes, options.axes, options.ghost)


def _divisible(batch: Any, ghost: Ghost) -> Any:
    message = format_error(
        f"Ghost batches of {ghost.size} were asked for",
        "virtual_batch_size must divide the batch size, and the batch has a remainder",
        f"Use batches of a multiple of {ghost.size} examples, or another virtual_batch_size",
    )
    check = tf.debugging.assert_equal(batch % ghost.size, 0, message=message)
    with tf.control_dependencies([] if check is None else [check]):
        return tf.identity(batch)
