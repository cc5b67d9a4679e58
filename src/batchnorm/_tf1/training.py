"""The `training` argument of TensorFlow 1: known while the graph is built, or fed when it runs."""

from numbers import Real
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import tensorflow as tf

from batchnorm.errors import format_error

__all__ = ["resolve_training"]

_learning_phases: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def resolve_training(training: Any) -> Any:
    """A bool if the value is known, otherwise a boolean scalar tensor.

    Python and NumPy numbers equal to 0 or 1 are known, and so are constant tensors. None stands for the graph's
    learning phase, a placeholder that is False unless fed; outside a graph it is False.

    Raises:
        TypeError: the value is none of these, or a tensor that is not boolean.
        ValueError: a tensor that is not a scalar.
    """
    if training is None:
        return _learning_phase()
    if isinstance(training, (bool, np.bool_, Real)) and training in (0, 1):
        return bool(training)
    if tf.is_tensor(training):
        return _from_tensor(training)
    raise TypeError(
        format_error(
            f"training={training!r} was asked for",
            "It says whether to normalize by the batch or by the moving statistics, so it must be one of True, False, "
            "1, 0, None, or a boolean scalar tensor or variable",
            "Pass one of these",
        )
    )


def _from_tensor(training: Any) -> Any:
    tensor = tf.convert_to_tensor(training)
    known = tf.get_static_value(tensor)
    if known is not None and np.ndim(known) == 0 and known in (0, 1):
        return bool(known)
    if tensor.dtype.base_dtype != tf.bool:
        raise TypeError(
            format_error(
                f"training was given a tensor of dtype {tensor.dtype.base_dtype.name} whose value is not known yet",
                "A branch is taken on a boolean",
                "Cast it with tf.cast(training, tf.bool), or make the placeholder a tf.bool",
            )
        )
    if tensor.shape.rank not in (None, 0):
        raise ValueError(
            format_error(
                f"training was given a tensor of shape {tensor.shape}",
                "One call either trains or does not, so it takes one boolean",
                "Pass a scalar",
            )
        )
    # tf.custom_gradient looks for variables behind what it wraps, the switch of a conditional included, and refuses
    # those of TensorFlow 1; it does not look past this op.
    return tf.stop_gradient(tensor, name="training")


def _learning_phase() -> Any:
    if tf.compat.v1.executing_eagerly_outside_functions():
        return False
    graph = tf.compat.v1.get_default_graph()
    if graph not in _learning_phases:
        with tf.compat.v1.name_scope(""), tf.control_dependencies(None):
            _learning_phases[graph] = tf.compat.v1.placeholder_with_default(
                False, shape=(), name="keras_learning_phase"
            )
    return _learning_phases[graph]
