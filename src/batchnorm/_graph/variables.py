"""Variables made by `tf.compat.v1.get_variable`, so that scopes, getters, partitioners and reuse all have their say."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

__all__ = [
    "existing_variables",
    "flat",
    "is_ref",
    "parts",
    "read",
    "regularization",
    "square_root_of",
    "statistic",
    "weight",
]


def weight(name: str, shape: Sequence[int], dtype: Any, initializer: Any, trainable: bool, constraint: Any) -> Any:
    """A parameter. Without an initializer the scope's own serves."""
    return tf.compat.v1.get_variable(
        name,
        shape=shape,
        dtype=dtype,
        initializer=initializer if initializer is not None else tf.compat.v1.get_variable_scope().initializer,
        trainable=trainable,
        constraint=constraint,
    )


def statistic(
    name: str, shape: Sequence[int], dtype: Any, initializer: Any, collections: Sequence[str] | None = None
) -> Any:
    """A moving statistic: not trained, never partitioned, averaged over the replicas of a distribution."""
    scope = tf.compat.v1.get_variable_scope()
    partitioner = scope.partitioner
    scope.set_partitioner(None)
    try:
        return tf.compat.v1.get_variable(
            name,
            shape=shape,
            dtype=dtype,
            initializer=initializer if initializer is not None else scope.initializer,
            trainable=False,
            collections=collections,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.MEAN,
        )
    finally:
        scope.set_partitioner(partitioner)


def square_root_of(initializer: Any) -> Callable[..., Any]:
    """An initializer for a moving deviation, from that of the moving variance."""

    def root(shape: Sequence[int], dtype: Any = None, partition_info: Any = None) -> Any:
        del partition_info
        return tf.sqrt(initializer(shape, dtype=dtype))

    return root


def existing_variables() -> set[str]:
    """Names of the variables of the graph in which new ones would be made; empty where there is no such graph."""
    with tf.init_scope():
        if tf.executing_eagerly():
            return set()
        return {variable.name for variable in tf.compat.v1.global_variables()}


def regularization(name: str, variable: Any, regularizer: Callable[[Any], Any]) -> list[Any]:
    """The losses of one parameter, one for each of its parts where it is partitioned."""
    losses: list[Any] = []
    for part in parts(variable):
        with tf.compat.v1.name_scope(name + "/Regularizer"):
            losses.append(regularizer(part))
    return [loss for loss in losses if loss is not None]


def parts(variable: Any) -> list[Any]:
    """The variables that a partitioned one is made of; an ordinary one is its own part."""
    return list(variable) if hasattr(variable, "_variable_list") else [variable]


def is_ref(variable: Any) -> bool:
    """Whether reading the variable may alias its memory, as TensorFlow 1's own kind did."""
    return bool(getattr(variable.dtype, "_is_ref_dtype", False))


def flat(value: Any) -> Any:
    """A variable or tensor as a tensor [C], whatever unit axes its variable has; a scalar stays one."""
    tensor = tf.convert_to_tensor(value)
    return tensor if tensor.shape.rank in (0, 1) else tf.reshape(tensor, [-1])


def read(variables: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the state as it is now, which later updates of the same run do not reach."""
    return {slot: flat(_copy(variable)) for slot, variable in variables.items()}


def _copy(variable: Any) -> Any:
    return tf.raw_ops.DeepCopy(x=variable) if is_ref(variable) else tf.convert_to_tensor(variable)
