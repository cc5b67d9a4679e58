"""Rows for TensorFlow: each touches names of `batchnorm._engines.tensorflow.private`."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import pytest

from unit.private_rows import touches


@touches("tensorflow", "could_possibly_record pack_tangents", "second derivatives in forward mode")
def tangents(private: Any) -> None:
    import tensorflow as tf

    x = tf.constant(1.0)
    assert not private.could_possibly_record()
    with tf.autodiff.ForwardAccumulator(x, tf.constant(3.0)):
        assert private.could_possibly_record()
        assert [float(each) for each in private.pack_tangents([x]).tangents] == [3.0]
        assert not private.pack_tangents([tf.constant(1.0)]).tangents


@touches("tensorflow", "record_operation should_record_backprop stop_recording", "gradients in eager mode")
def tapes(private: Any) -> None:
    import tensorflow as tf

    x = tf.constant(1.0)
    assert not private.should_record_backprop([x])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        assert private.should_record_backprop([x])
        with private.stop_recording():
            y, unseen = 2.0 * x, 3.0 * x
        private.record_operation("Ours", [y], [x], lambda dy: [5.0 * dy], None)
    assert float(tape.gradient(y, x)) == 5.0
    assert tape.gradient(unseen, x) is None


@touches("tensorflow", "RegisterPFor wrap", "tf.vectorized_map over functions that hold our ops")
def vectorization(private: Any) -> None:
    import tensorflow as tf

    import batchnorm._engines.tensorflow.native_or_composed  # noqa: F401  # registers

    with pytest.raises(AssertionError):
        private.RegisterPFor("DeviceIndex")(lambda _: None)
    wrapped = private.wrap(tf.constant(3), False)
    assert (int(wrapped.t), wrapped.is_stacked) == (3, False)

    def function(x: Any) -> Any:
        return x + tf.cast(tf.raw_ops.DeviceIndex(device_names=["CPU"]), x.dtype)

    mapped = tf.vectorized_map(function, tf.ones([3]), fallback_to_while_loop=False)
    assert mapped.shape == (3,)


@touches(
    "tensorflow",
    "CondBranchFuncGraph ControlFlowFuncGraph enclosing_graphs output_all_intermediates",
    "our ops in branches and loops; no training on one side of a condition under recompute_grad",
)
def branches(private: Any) -> None:
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util_v2 import set_output_all_intermediates

    seen: list[Any] = []
    answers: list[bool] = []

    @tf.function
    def function(x: Any) -> Any:
        def branch() -> Any:
            seen.extend(private.enclosing_graphs())
            answers.append(private.output_all_intermediates())
            return x

        return tf.cond(x > 0.0, branch, lambda: -x)

    function(tf.constant(1.0))
    set_output_all_intermediates(True)
    answers.append(private.output_all_intermediates())
    set_output_all_intermediates(None)
    assert answers == [False, True]
    inner, around = seen[:2]
    assert isinstance(inner, private.CondBranchFuncGraph)
    assert isinstance(inner, private.ControlFlowFuncGraph)
    assert around.building_function
    assert not isinstance(around, private.ControlFlowFuncGraph)


@touches(
    "tensorflow",
    "compiles_or_loops control_flow_context",
    "our ops and shared reads in TensorFlow 1's graphs",
)
def contexts(private: Any) -> None:
    import tensorflow as tf

    seen: list[tuple[bool, bool]] = []

    def look(value: Any) -> Any:
        graph = tf.compat.v1.get_default_graph()
        seen.append((private.control_flow_context(graph) is not None, private.compiles_or_loops(graph)))
        return value

    tf.compat.v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default():
            look(None)
            tf.while_loop(lambda i: i < 2, look, [tf.constant(0)])
            tf.cond(tf.constant(True), lambda: look(tf.constant(1)), lambda: tf.constant(1))
            tf.xla.experimental.compile(look, [tf.constant(1.0)])
    finally:
        tf.compat.v1.enable_control_flow_v2()
    assert seen == [(False, False), (True, True), (True, False), (True, True)]


@touches("tensorflow", "control_dependencies", "calls that wait for different ops read the state separately")
def dependencies(private: Any) -> None:
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        op = tf.no_op()
        assert list(private.control_dependencies(graph)) == []
        with tf.control_dependencies([op]):
            assert list(private.control_dependencies(graph)) == [op]


@touches("tensorflow", "is_defun", "our ops without branches in TensorFlow 1's functions")
def defun(private: Any) -> None:
    import tensorflow as tf
    from tensorflow.python.framework.function import Defun

    seen: list[bool] = []

    def look(x: Any) -> Any:
        seen.append(private.is_defun(tf.compat.v1.get_default_graph()))
        return x

    with tf.Graph().as_default():
        look(None)
        Defun(tf.float32)(look)(tf.constant(1.0))
        tf.function(look)(tf.constant(1.0))
    assert seen == [False, True, False]


@touches(
    "tensorflow", "op_definition protos wrap_meta_graph wrap_serialization", "written graphs without our ops"
)
def writing(private: Any, monkeypatch: Any) -> None:
    import tensorflow as tf
    from tensorflow.python.framework import meta_graph

    graph: Any = tf.Graph
    called: list[str] = []

    def recording(function: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            called.append(function.__name__)
            return function(*args, **kwargs)

        return recorded

    for wrap, owner, name in (
        (private.wrap_serialization, graph, "_as_graph_def"),
        (private.wrap_meta_graph, meta_graph, "create_meta_graph_def"),
    ):
        wrap(recording)  # the engine has wrapped it already
        monkeypatch.setattr(owner, name, inspect.unwrap(getattr(owner, name)))
        wrap(recording)
    with tf.Graph().as_default():
        tf.constant(1.0)
        written = tf.compat.v1.get_default_graph().as_graph_def()
        assert called == ["_as_graph_def"]
        tf.compat.v1.train.export_meta_graph()
    assert "create_meta_graph_def" in called
    assert isinstance(written, private.protos.GraphDef)
    assert isinstance(written.node[0], private.protos.NodeDef)
    assert hasattr(private.protos, "FunctionDef")
    assert [each.name for each in private.op_definition("FusedBatchNormV3").output_arg][:2] == [
        "y",
        "batch_mean",
    ]


@touches(
    "tensorflow", "is_ref memory", "updates of TensorFlow 1's own variables, in as few ops as the original"
)
def references(private: Any) -> None:
    import tensorflow as tf

    with tf.Graph().as_default():
        old = tf.compat.v1.Variable(0.0, use_resource=False)
        new = tf.compat.v1.Variable(0.0, use_resource=True)
        assert [private.is_ref(old), private.is_ref(new)] == [True, False]
        assert private.memory(old).op is old.op


@touches("tensorflow", "parts", "weights, collections and losses of partitioned variables")
def partitions(private: Any) -> None:
    import tensorflow as tf

    with tf.Graph().as_default():
        partitioner = tf.compat.v1.fixed_size_partitioner(2)
        halves = tf.compat.v1.get_variable("halves", [4], partitioner=partitioner)
        whole = tf.compat.v1.get_variable("whole", [4])
        assert [part.shape.as_list() for part in private.parts(halves)] == [[2], [2]]
        assert private.parts(whole) == [whole]


@touches("tensorflow", "add_variable", "checkpoints hold the v1 layer's variables by name")
def checkpoints(private: Any) -> None:
    import tensorflow as tf

    with tf.Graph().as_default():
        owner = tf.Module()
        start = tf.compat.v1.zeros_initializer()
        made = private.add_variable(
            owner, "gamma", shape=[2], initializer=start, getter=tf.compat.v1.get_variable, overwrite=True
        )
        _, children = zip(*owner._trackable_children().items(), strict=True)
    assert list(children) == [made]


@touches(
    "tensorflow",
    "keeps_eager_variables variable_store variable_stores",
    "get_variable asks a tracker, in eager code too",
)
def stores(private: Any) -> None:
    import tensorflow as tf
    from tensorflow.python.ops.variable_scope import EagerVariableStore

    with tf.Graph().as_default():
        own = private.variable_store()
        assert private.variable_stores()[0] is own
        assert not private.keeps_eager_variables(own)
        other = object()
        private.variable_stores().insert(0, other)
        assert private.variable_store() is other
    with EagerVariableStore().as_default():
        assert private.keeps_eager_variables(private.variable_store())


@touches(
    "tensorflow", "ScopeStore opens_for_reuse scope_store", "reuse=True and default names under a tracker"
)
def scopes(private: Any) -> None:
    import tensorflow as tf

    seen: list[bool] = []

    class Looking(private.ScopeStore):
        @property
        def current_scope(self) -> Any:
            return self.__dict__["current_scope"]

        @current_scope.setter
        def current_scope(self, scope: Any) -> None:
            opener = sys._getframe(1).f_locals.get("self")
            seen.append(private.opens_for_reuse(opener, scope))
            self.__dict__["current_scope"] = scope

    with tf.Graph().as_default():
        found = private.scope_store()
        assert type(found) is private.ScopeStore
        found.__class__ = Looking
        for reuse in (None, True):
            with tf.compat.v1.variable_scope("scope", reuse=reuse):
                seen.append(found.variable_scopes_count["scope"] > 0)
        found.close_variable_subscopes(None)
        assert found.variable_scopes_count["scope"] == 0
    assert seen == [False, True, False, True, True, False]


@touches("tensorflow", "BOOKKEEPING MODULE_IGNORES", "variables, checkpoints and copies of the v1 layer")
def modules(private: Any) -> None:
    import tensorflow as tf

    class Hiding(tf.Module):
        _TF_MODULE_IGNORED_PROPERTIES = frozenset({*private.MODULE_IGNORES, "hidden"})

    module = Hiding()
    module.hidden = [tf.Variable(0.0)]
    assert module.variables == ()
    assert "_self_unconditional_checkpoint_dependencies" in vars(module)
    assert all(name.startswith(private.BOOKKEEPING) for name in vars(module) if "checkpoint" in name)


@touches(
    "tensorflow", "autograph make_decorator", "a subclass's call may branch on tensors; decorated methods"
)
def internals(private: Any) -> None:
    import tensorflow as tf

    def function(x: Any) -> Any:
        if x > 0:  # noqa: SIM108
            y = x
        else:
            y = -x
        return y

    converted = private.autograph.tf_convert(function, private.autograph.control_status_ctx())
    assert int(tf.function(converted, autograph=False)(tf.constant(-2))) == 2
    made = private.make_decorator(function, lambda x: function(x) + 1)
    assert made(-2) == 3
    assert inspect.unwrap(made) is function
