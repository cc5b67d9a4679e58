"""One call on a tensor: the core's training step, its inference step, or a choice between them at run time."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from batchnorm._core.adjustment import Adjustment
from batchnorm._core.engine import Batch, Inputs
from batchnorm._core.step import infer, train
from batchnorm._engines.tensorflow import engine, graph_step, ops
from batchnorm._engines.tensorflow.dispatch import find, takes_one_op
from batchnorm._engines.tensorflow.inference import is_image
from batchnorm._faces.adjustment import call_adjustment, check_dtype
from batchnorm._tf1.scalars import in_dtype
from batchnorm.errors import format_error
from batchnorm.layout import Layout, plan_layout
from batchnorm.options import Ghost, Options

__all__ = ["Call", "Contribution", "adjustment_for", "infer_by", "normalize", "plan", "train_if"]


# A size known only at run time; its products are unknown too.
UNKNOWN = math.nan


# Returns what a batch contributes to the averages, as tensors of the graph or branch in which it is called.
Contribution = Callable[[], Batch[Any]]


class Call(NamedTuple):
    """What is normalized by what. `training` is a bool or a boolean tensor; gamma, beta and the state are [C]."""

    x: Any
    gamma: Any
    beta: Any
    state: Mapping[str, Any]
    training: Any
    weights: Any = None
    adjustment: Adjustment[Any] | None = None


def normalize(options: Options, call: Call) -> tuple[Any, Contribution | None]:
    """y, and what the batch contributes to the averages, or None if the call is known not to train.

    If training is decided at run time, the batch does not count when it is False.
    """
    options = in_dtype(options, ops.stat_dtype(call.x))
    if call.training is False:
        return infer_by(options, call), None
    if call.training is True:
        done = _train_in_one_op(options, call)
        if done is None:
            y, batch = _train(options, call)
            return y, lambda: batch
        y, averages, layout = done
        batch = _batch_of(averages, counts=not isinstance(layout.count, int))
        return y, lambda: batch
    return train_if(options, call, lambda: _train(options, call), lambda: _train_in_one_op(options, call))


def train_if(
    options: Options,
    call: Call,
    train: Callable[[], tuple[Any, Batch[Any]]],
    train_in_one_op: Callable[[], tuple[Any, Any, Layout] | None] = lambda: None,
) -> tuple[Any, Contribution]:
    """The same if training is decided at run time: with `train_in_one_op`, or with `train` if that returns None."""
    in_one_op: Layout | None = None

    def train_branch() -> tuple[Any, ...]:
        nonlocal in_one_op
        done = train_in_one_op()
        if done is not None:
            y, averages, in_one_op = done
            return y, averages
        y, batch = train()
        counted = tf.constant(True) if batch.has_weight is None else batch.has_weight
        return y, *batch[:3], tf.broadcast_to(counted, tf.shape(batch.mean))

    def infer_branch() -> tuple[Any, ...]:
        mean, variance = call.state["moving_mean"], call.state["moving_variance"]
        if in_one_op is not None:
            return _infer_in_one_op(options, call, in_one_op), tf.zeros([3, in_one_op.channels], mean.dtype)
        idle = [tf.identity(mean), tf.identity(variance), tf.identity(variance)]
        return infer_by(options, call), *idle, tf.zeros_like(mean, tf.bool)

    y, *told = tf.cond(call.training, train_branch, infer_branch)
    y.set_shape(call.x.shape)
    if in_one_op is not None:
        return y, lambda: _batch_of(told[0], counts=True)
    return y, lambda: Batch(*told)


def adjustment_for(function: Callable[[Any], Any], x: Any, dtype: Any) -> Adjustment[Any]:
    """What the user's function returns for the shape of x, as tensors of the parameters' dtype."""

    def convert(part: Any) -> Any:
        if tf.is_tensor(part):
            check_dtype(part.dtype.name, dtype.name)
        return tf.convert_to_tensor(part, dtype)

    return call_adjustment(function, tf.shape(x), x.shape.rank, convert)


def _train(options: Options, call: Call) -> tuple[Any, Batch[Any]]:
    inputs = Inputs(call.x, call.gamma, call.beta, call.weights, dict(call.state))
    return train(engine, options, plan(call.x, options), inputs, call.adjustment)


def _train_in_one_op(options: Options, call: Call) -> tuple[Any, Any, Layout] | None:
    """y, what the averages take, [3, C], and the layout; None if the graph or the call needs more than one op."""
    layout = plan_layout(_known_sizes(call.x), options.axes)
    kernels = takes_one_op(call.x, options, layout, call.weights, call.adjustment is not None)
    if kernels is None:
        return None
    of_sample = options.variance == "sample"
    y, averages = graph_step.train(kernels, call.x, call.gamma, call.beta, options.epsilon, of_sample, layout)
    return y, averages, layout


def _batch_of(averages: Any, counts: bool) -> Batch[Any]:
    """The batch's contribution, from [3, C]. With `counts`, whether it is empty is known only at run time."""
    mean, variance, total = tf.unstack(averages, num=3)
    return Batch(mean, variance, variance, None, total=total if counts else None)


def infer_by(options: Options, call: Call) -> Any:
    """y by the moving statistics."""
    bare = options.fused is not False and call.x.shape.rank <= ops.MOST_BROADCAST
    layout = plan_layout(_known_sizes(call.x) if bare else ops.shape(call.x), options.axes)
    return infer(engine, options, layout, Inputs(call.x, call.gamma, call.beta, None, dict(call.state)))


def _infer_in_one_op(options: Options, call: Call, layout: Layout) -> Any:
    """y by the moving statistics, in one op as the training step is.

    Images are left to TensorFlow's own operation, which converters fold into the convolution before it.
    """
    kernels = None if is_image(call.x, layout) else find(call.x, None, layout)
    if kernels is None:
        return infer_by(options, call)
    statistics = call.state["moving_mean"], call.state["moving_variance"]
    return graph_step.infer(kernels, call.x, call.gamma, call.beta, *statistics, options.epsilon, layout)


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
