"""Variables made by `tf.compat.v1.get_variable`, so that scopes, getters, partitioners and reuse all apply."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import tensorflow as tf

from batchnorm._engines.tensorflow.private import control_dependencies, control_flow_context, is_ref, parts
from batchnorm._tf1.objects import for_variables

__all__ = [
    "existing_variables",
    "flat",
    "regularization",
    "snapshot",
    "square_root_of",
    "statistic",
    "weight",
]


def weight(
    name: str, shape: Sequence[int], dtype: Any, initializer: Any, trainable: bool, constraint: Any
) -> Any:
    """A parameter. Without an initializer the scope's own is used."""
    scope = tf.compat.v1.get_variable_scope()
    return tf.compat.v1.get_variable(
        name,
        shape=shape,
        dtype=dtype,
        initializer=initializer if initializer is not None else scope.initializer,
        regularizer=for_variables(scope.regularizer),
        trainable=trainable,
        constraint=for_variables(constraint),
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
            regularizer=for_variables(scope.regularizer),
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
    """Names of the variables of the graph in which new ones would be made; empty if there is no such graph."""
    with tf.init_scope():
        if tf.executing_eagerly():
            return set()
        return {variable.name for variable in tf.compat.v1.global_variables()}


def regularization(name: str, variable: Any, regularizer: Callable[[Any], Any]) -> list[Any]:
    """The losses of one parameter, one for each of its parts if it is partitioned."""
    losses: list[Any] = []
    regularizer = for_variables(regularizer)
    for part in parts(variable):
        with tf.compat.v1.name_scope(name + "/Regularizer"):
            losses.append(regularizer(part))
    return [loss for loss in losses if loss is not None]


def flat(value: Any) -> Any:
    """A variable or tensor as a tensor [C], whatever unit axes its variable has; a scalar stays one."""
    tensor = tf.convert_to_tensor(value)
    return tensor if tensor.shape.rank in (0, 1) else tf.reshape(tensor, [-1])


def snapshot(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The state as it is before any update of the same run: all calls in one graph share what they read.

    Calls under other control dependencies or in another branch read for themselves, since they asked for an order.
    """
    if tf.compat.v1.executing_eagerly_outside_functions():
        return {slot: flat(variable) for slot, variable in variables.items()}
    graph: Any = tf.compat.v1.get_default_graph()
    order = tuple(id(op) for op in control_dependencies(graph))
    read = _read.setdefault(graph, {})
    key = (id(control_flow_context(graph)), order)
    for variable in variables.values():
        if (*key, variable.name) not in read:
            read[*key, variable.name] = flat(_copy(variable))
    return {slot: read[*key, variable.name] for slot, variable in variables.items()}


# Kept by the graph's own lifetime; values are tensors of that graph.
_read: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


def _copy(variable: Any) -> Any:
    """A reading that later assignments do not reach."""
    return tf.raw_ops.DeepCopy(x=variable) if is_ref(variable) else tf.convert_to_tensor(variable)
