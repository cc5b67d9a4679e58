"""Our own gradient for TensorFlow: first order by the core's formulas, higher orders by deriving those."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import record

from batchnorm._engines.protocol import Batch, Gradients, Inputs, Saved

__all__ = ["differentiable"]

Tensor = Any


def differentiable(
    forward: Callable[[Inputs[Tensor]], tuple[Tensor, Batch[Tensor], Saved[Tensor]]],
    backward: Callable[[Inputs[Tensor], Saved[Tensor], Tensor], Gradients[Tensor]],
    reference: Callable[[Inputs[Tensor], Tensor], Gradients[Tensor]],
) -> Callable[[Inputs[Tensor]], tuple[Tensor, Batch[Tensor]]]:
    """`forward` with the gradient `backward`, whose own derivatives are those of `reference`."""

    def step(inputs: Inputs[Tensor]) -> tuple[Tensor, Batch[Tensor]]:
        fields = [name for name in Gradients._fields if _has_gradient(getattr(inputs, name))]

        def with_arrays(arrays: Sequence[Tensor]) -> Inputs[Tensor]:
            return inputs._replace(**dict(zip(fields, arrays, strict=True)))

        def chosen(gradients: Gradients[Tensor]) -> list[Tensor]:
            return [getattr(gradients, name) for name in fields]

        batches: list[Batch[Tensor]] = []

        def first_order(*arrays: Tensor) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
            y, batch, saved = forward(with_arrays(arrays))
            batches.append(batch)

            def gradient(dy: Tensor, *arrays: Tensor) -> Any:
                def second_order(*upstream: Tensor) -> list[Tensor]:
                    sources = [dy, *arrays]
                    with tf.GradientTape() as tape:
                        tape.watch(sources)
                        targets = chosen(reference(with_arrays(arrays), dy))
                    return tape.gradient(
                        targets, sources, list(upstream), unconnected_gradients=tf.UnconnectedGradients.ZERO
                    )

                return chosen(backward(with_arrays(arrays), saved, dy)), second_order

            return y, lambda dy: list(_with_own_gradient(gradient, dy, *arrays))

        ordered = _order(inputs)
        (y,) = _with_own_gradient(first_order, *(getattr(ordered, name) for name in fields))
        return y, _constant(batches[0])

    return step


def _with_own_gradient(function: Callable[..., tuple[Any, Callable[..., Any]]], *arrays: Tensor) -> Any:
    """The tensors that the function returns first; the second that it returns is their gradient.

    As `tf.custom_gradient`, which in eager mode takes longer for its bookkeeping than small arrays do for their
    arithmetic: it looks for variables, copies, and lets the tape remember all that happens inside.
    """
    if not tf.executing_eagerly():
        result = tf.custom_gradient(_unrecorded(function))(*arrays)
        return result if isinstance(result, (list, tuple)) else [result]
    # The reading of a variable is recorded as ever.
    arrays = tuple(array if isinstance(array, tf.Tensor) else tf.convert_to_tensor(array) for array in arrays)
    with record.stop_recording():
        result, pull = function(*arrays)
    result = result if isinstance(result, (list, tuple)) else [result]
    record.record_operation("BatchNormalization", result, arrays, pull)
    return result


def _unrecorded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, hidden from the tapes, which would look for the gradients of what it is made of."""

    @wraps(function)
    def call(*arrays: Tensor) -> Any:
        with record.stop_recording():
            return function(*arrays)

    return call


def _constant(batch: Batch[Tensor]) -> Batch[Tensor]:
    """The same: no gradient flows through the moving averages, and none is to be sought through what feeds them."""
    if tf.executing_eagerly():
        return batch
    return Batch(*(None if value is None else tf.stop_gradient(value) for value in batch))


def _order(inputs: Inputs[Tensor]) -> Inputs[Tensor]:
    """The inputs, with x only after gamma and beta.

    `tf.custom_gradient` joins all arguments and results in one operation. The graph optimizer takes that for
    a path from the read of a variable to its update, drops the order between the two, and then takes the
    joint apart: where the gradient of y does not depend on y, the update could come before the read.
    """
    if tf.executing_eagerly():
        return inputs
    with tf.control_dependencies([value for value in (inputs.gamma, inputs.beta) if value is not None]):
        return inputs._replace(x=tf.identity(inputs.x, name="ordered"))


def _has_gradient(value: Tensor | None) -> bool:
    return value is not None and value.dtype.is_floating
