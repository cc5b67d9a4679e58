"""Private names of TensorFlow, each with what depends on it.

Any release may drop one, so pyproject.toml allows only releases that were tested, and tests/unit/test_private.py
touches each name. If an import is gone, importing this file raises an ImportError that says so; if an attribute is
gone, the first call that needs it raises.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import tensorflow as tf

from batchnorm._require import private_names

with private_names("TensorFlow", tf.__version__, "tensorflow"):
    # Messages inside a GraphDef: the functions that stand for our ops in written graphs.
    from tensorflow.core.framework import function_pb2, graph_pb2, node_def_pb2

    # Forward mode: whether the second derivative must be one that an accumulator can follow.
    from tensorflow.python.eager.forwardprop_util import pack_tangents

    # Tapes: our gradients in eager mode, and what is kept from being differentiated op by op.
    from tensorflow.python.eager.record import (
        could_possibly_record,
        record_operation,
        should_record_backprop,
        stop_recording,
    )

    # Writing graphs: `.meta` files without our ops, and the names of our ops' outputs.
    from tensorflow.python.framework import meta_graph, op_def_registry

    # TensorFlow 1's functions: our ops stand in them without branches.
    from tensorflow.python.framework.function import _FuncGraph  # pyright: ignore[reportPrivateUsage]

    # The stores that `get_variable` asks, and the record of open scopes.
    from tensorflow.python.ops import variable_scope

    # Keras 2's layers: whether every tensor of a branch becomes a result of it.
    from tensorflow.python.ops.control_flow_util_v2 import output_all_intermediates

    # The graphs of branches and loops, as opposed to those of functions.
    from tensorflow.python.ops.control_flow_v2_func_graphs import CondBranchFuncGraph, ControlFlowFuncGraph

    # `tf.vectorized_map` over functions that hold our ops.
    from tensorflow.python.ops.parallel_for.pfor import RegisterPFor, wrap

    # Weights, collections and losses by the part.
    from tensorflow.python.ops.variables import PartitionedVariable

__all__ = [
    "BOOKKEEPING",
    "MODULE_IGNORES",
    "CondBranchFuncGraph",
    "ControlFlowFuncGraph",
    "RegisterPFor",
    "ScopeStore",
    "add_variable",
    "autograph",
    "compiles_or_loops",
    "control_dependencies",
    "control_flow_context",
    "could_possibly_record",
    "enclosing_graphs",
    "is_defun",
    "is_ref",
    "keeps_eager_variables",
    "make_decorator",
    "memory",
    "op_definition",
    "opens_for_reuse",
    "output_all_intermediates",
    "pack_tangents",
    "parts",
    "protos",
    "record_operation",
    "scope_store",
    "should_record_backprop",
    "stop_recording",
    "variable_store",
    "variable_stores",
    "wrap",
    "wrap_meta_graph",
    "wrap_serialization",
]

_internal: Any = tf.__internal__  # pyright: ignore[reportAttributeAccessIssue]

# AutoGraph's state around a layer's call, and its rewriting of a subclass's own `call`.
autograph: Any = _internal.autograph
# A decorated method stays recognizable to `tf.function` and Keras.
make_decorator: Callable[..., Any] = _internal.decorator.make_decorator
# What `tf.Module` does not search for variables; the v1 layer adds its own lists to it.
MODULE_IGNORES: frozenset[str] = tf.Module._TF_MODULE_IGNORED_PROPERTIES  # pyright: ignore
# How the attributes begin in which TensorFlow follows what a checkpoint holds; a copied layer must not take them over.
BOOKKEEPING = "_self_"
# The record of the current variable scope, extended so that eager code keeps `reuse=True`.
ScopeStore: Any = variable_scope._VariableScopeStore  # pyright: ignore[reportPrivateUsage]
# These classes are created when TensorFlow is imported, so type checkers do not see them.
protos = SimpleNamespace(**vars(function_pb2) | vars(graph_pb2) | vars(node_def_pb2))


# Graphs that are being built.


def enclosing_graphs() -> Iterator[Any]:
    """The graph being built and those around it: whether our ops may stand in it.

    Only graphs of functions have one around them.
    """
    graph: Any = tf.compat.v1.get_default_graph()
    while graph is not None:
        yield graph
        graph = getattr(graph, "outer_graph", None)


def control_flow_context(graph: Any) -> Any:
    """TensorFlow 1's condition or loop around the next op, or None: what variables may be read there, and shared."""
    return graph._get_control_flow_context()


def compiles_or_loops(graph: Any) -> bool:
    """Whether XLA compiles the next op as part of a whole, or TensorFlow 1 loops over it: our ops stay out."""
    context = control_flow_context(graph)
    while context is not None:
        if context.IsXLAContext() or context.IsWhileContext():
            return True
        context = context.outer_context
    return False


def control_dependencies(graph: Any) -> Any:
    """The ops that the next one waits for: calls that wait for different ones do not share what they read."""
    return graph._current_control_dependencies()


def is_defun(graph: Any) -> bool:
    """Whether it is the graph of a TensorFlow 1 function, which gets no branches."""
    return isinstance(graph, _FuncGraph)


# Graphs that are being written.


def wrap_serialization(wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Wrap, once, the method by which every graph becomes a `GraphDef`: written graphs need no ops of ours."""
    graph: Any = tf.Graph
    graph._as_graph_def = _wrapped(graph._as_graph_def, wrapper)


def wrap_meta_graph(wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Wrap, once, the function that makes `.meta` files, which may be given nodes that were copied one by one."""
    meta_graph.create_meta_graph_def = _wrapped(meta_graph.create_meta_graph_def, wrapper)


def _wrapped(function: Any, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Any:
    if hasattr(function, "is_standard"):
        return function
    made: Any = wrapper(function)
    made.is_standard = True
    return made


def op_definition(name: str) -> Any:
    """The `OpDef` of an op: where its outputs went when a function takes its place."""
    return op_def_registry.get(name)


# Variables.


def is_ref(variable: Any) -> bool:
    """Whether the variable is TensorFlow 1's own kind, whose readings may alias its memory."""
    dtype = variable.dtype
    return isinstance(dtype, tf.DType) and bool(dtype._is_ref_dtype)  # pyright: ignore


def memory(variable: Any) -> Any:
    """TensorFlow 1's variable as the reference that ops read by themselves: one op less in each update."""
    return variable._ref()


def parts(variable: Any) -> list[Any]:
    """The variables that a partitioned one is made of; an ordinary one is its own part."""
    return list(variable) if isinstance(variable, PartitionedVariable) else [variable]


def add_variable(owner: Any, name: str, **arguments: Any) -> Any:
    """Make a variable that the owner's checkpoints hold by name, restored if one is being loaded."""
    return owner._add_variable_with_custom_getter(name, **arguments)


# Variable scopes.


def variable_store() -> Any:
    """The store that `get_variable` asks: trackers, ours and others', take its place while they run."""
    return variable_scope._get_default_variable_store()  # pyright: ignore[reportPrivateUsage]


def variable_stores() -> list[Any]:
    """The current graph's stores, the active one first: where a tracker puts itself."""
    key: Any = variable_scope._VARSTORE_KEY  # pyright: ignore[reportPrivateUsage]
    return tf.compat.v1.get_collection_ref(key)


def keeps_eager_variables(store: Any) -> bool:
    """Whether a store serves eager code; in any other, layers that make variables there are refused."""
    return bool(getattr(store, "_store_eager_variables", False))


def scope_store() -> Any:
    """The current graph's record of scopes: how default names are counted anew, and `reuse=True` is kept."""
    return variable_scope.get_variable_scope_store()


def opens_for_reuse(opener: Any, scope: Any) -> bool:
    """Whether the context manager that enters a scope was asked for `reuse=True`."""
    if not isinstance(opener, variable_scope._pure_variable_scope):  # pyright: ignore[reportPrivateUsage]
        return False
    entered: Any = opener
    if entered._old is scope:  # it is leaving, back to the scope around it
        return False
    return entered._reuse is True or getattr(entered._name_or_scope, "reuse", None) is True
