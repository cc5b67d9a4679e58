"""Op names under which the originals' outputs and updates are known; programs look them up."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

__all__ = ["name_output", "output_name", "update_names"]


def output_name(fused: bool, ghost: bool, wide: bool, parameters: int) -> str:
    """The historical name of y's op, relative to the layer's op scope.

    Args:
        fused: the fused kernel's name.
        ghost: ghost batches, whose output ends in a reshape.
        wide: computed in a wider dtype than the output, so that it ends in a cast.
        parameters: how many variables of TensorFlow 1's kind took part as they are, each of which was cast.
    """
    if fused:
        return "FusedBatchNormV3"
    if ghost:
        return "Reshape_1"
    if wide:
        return f"Cast_{1 + parameters}"
    return "batchnorm/add_1"


def name_output(name: str, compute: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any]:
    """Run `compute` out of the way of historical names and call the tensor it returns first by `name`."""
    if tf.executing_eagerly():
        return compute()
    *scope, last = name.split("/")
    with tf.compat.v1.name_scope(scope[0] if scope else "batchnorm"):
        with tf.compat.v1.name_scope("step"):
            y, rest = compute()
        if scope:
            return tf.identity(y, name=last), rest
    return tf.identity(y, name=last), rest


def update_names(fused: bool, renorm: bool, adjustment: bool, dynamic: bool) -> tuple[str, str] | None:
    """Names of the conditionals that held the two updates if training is decided at run time."""
    if not dynamic or fused:
        return None
    first = 2 + 4 * renorm + 2 * adjustment
    return f"cond_{first}", f"cond_{first + 1}"
