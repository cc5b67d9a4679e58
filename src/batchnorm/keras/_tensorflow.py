"""The layer on TensorFlow: the engine, and what only TensorFlow can do."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from batchnorm._engines.tensorflow import engine
from batchnorm.errors import refusal
from batchnorm.keras._known import advance, assign, infer_plainly, is_compiling, train_plainly

__all__ = [
    "advance",
    "assign",
    "divisible",
    "dynamic_shape",
    "either",
    "engine",
    "infer_plainly",
    "is_compiling",
    "train_plainly",
    "value",
]

Tensor = Any

dynamic_shape = tf.shape


def value(variable: Any) -> Tensor:
    """What a variable holds now; a cast to the dtype it has would hand on the variable, to be read later."""
    return tf.convert_to_tensor(variable.value)


@tf.autograph.experimental.do_not_convert
def either(training: Any, train: Callable[[], Tensor], infer: Callable[[], Tensor]) -> Tensor:
    """`train()` or `infer()`; a branch in the graph where only the run will tell."""
    if tf.is_tensor(training):
        known = tf.get_static_value(training)
        if known is None:
            return tf.cond(tf.cast(training, tf.bool), train, infer)
        training = known
    return train() if training else infer()


def divisible(x: Tensor, size: int) -> Tensor:
    """x, after a check that the ghost batch size divides a batch whose size only the run will tell."""
    if x.shape[0] is not None:
        return x
    batch: Tensor = tf.shape(x)[0]
    message = refusal(
        f"virtual_batch_size={size} was asked for",
        "It must divide the batch size while training, and does not divide the one below",
        f"Use batches of a multiple of {size} examples (drop_remainder=True), or another virtual_batch_size",
    )
    with tf.control_dependencies([tf.debugging.Assert(batch % size == 0, [message, batch])]):
        return tf.identity(x)
