"""One call on a tensor: the core's training step, its inference step, or whichever the run will ask for."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from batchnorm._core.adjustment import Adjustment
from batchnorm._core.step import infer, train
from batchnorm._engines.protocol import Batch, Inputs
from batchnorm._engines.tensorflow import engine, ops
from batchnorm._graph.scalars import in_dtype
from batchnorm.errors import refusal
from batchnorm.layout import Layout, plan_layout
from batchnorm.options import Ghost, Options

__all__ = ["Call", "call_adjustment", "normalize"]


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
    """y, and the batch's statistics, or None where the call is known not to train.

    Where training is decided at run time, the statistics do not count when it is False.
    """
    options = in_dtype(options, ops.stat_dtype(call.x))
    if isinstance(call.training, bool):
        return _train(options, call) if call.training else (_infer(options, call), None)

    def train_branch() -> tuple[Any, ...]:
        y, batch = _train(options, call)
        counted = tf.constant(True) if batch.counted is None else batch.counted
        return y, *batch[:3], tf.broadcast_to(counted, tf.shape(batch.mean))

    def infer_branch() -> tuple[Any, ...]:
        mean, variance = call.state["moving_mean"], call.state["moving_variance"]
        idle = [tf.identity(mean), tf.identity(variance), tf.identity(variance)]
        return _infer(options, call), *idle, tf.zeros_like(mean, tf.bool)

    y, *batch = tf.cond(call.training, train_branch, infer_branch)
    y.set_shape(call.x.shape)
    return y, Batch(*batch)


def call_adjustment(function: Callable[[Any], Any], x: Any, dtype: Any) -> Adjustment[Any]:
    """What the user's function returns for the shape of x, checked.

    Raises:
        TypeError: it did not return a pair, or one of another dtype than the parameters.
        ValueError: one of the pair is None.
    """
    result = function(tf.shape(x))
    asked = f"adjustment returned {result!r}"
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise TypeError(
            refusal(asked, "It must return a pair: a factor and an offset", "Return (scale, bias)")
        )
    if any(part is None for part in result):
        raise ValueError(
            refusal(asked, "Both parts are needed", "Return 1.0 for no factor or 0.0 for no offset")
        )
    for part in result:
        if tf.is_tensor(part) and part.dtype != dtype:
            raise TypeError(
                refusal(
                    asked,
                    f"The parameters are {dtype.name}, and a part of it is {part.dtype.name}",
                    f"Cast it to tf.{dtype.name}",
                )
            )
    return Adjustment(*(tf.convert_to_tensor(part, dtype) for part in result))


def _train(options: Options, call: Call) -> tuple[Any, Batch[Any]]:
    layout = _plan(call.x, options)
    inputs = Inputs(call.x, call.gamma, call.beta, call.weights, dict(call.state))
    return train(engine, options, layout, inputs, call.adjustment)


def _infer(options: Options, call: Call) -> Any:
    layout = plan_layout(ops.shape(call.x), options.axes)
    return infer(engine, options, layout, Inputs(call.x, call.gamma, call.beta, None, dict(call.state)))


def _plan(x: Any, options: Options) -> Layout:
    sizes = ops.shape(x)
    if options.ghost is not None and not isinstance(sizes[0], int):
        sizes = (_divisible(sizes[0], options.ghost), *sizes[1:])
    return plan_layout(sizes, options.axes, options.ghost)


def _divisible(batch: Any, ghost: Ghost) -> Any:
    message = refusal(
        f"Ghost batches of {ghost.size} were asked for",
        "virtual_batch_size must divide the batch size, and the batch has a remainder",
        f"Use batches of a multiple of {ghost.size} examples, or another virtual_batch_size",
    )
    check = tf.debugging.assert_equal(batch % ghost.size, 0, message=message)
    with tf.control_dependencies([] if check is None else [check]):
        return tf.identity(batch)
