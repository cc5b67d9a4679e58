"""track_tf1_style_variables on tf.Modules: which variables there are, what they start from, who shares them."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from batchnorm.compat.v1.keras.utils import regularization_losses, track_tf1_style_variables
from batchnorm.compat.v1.layers import BatchNormalization
from faces.tracked import PARAMETERS, X, both_ways, dense, module, names, norm

pytestmark = pytest.mark.needs("tensorflow", "keras", "tf_keras")

v1 = tf.compat.v1


# --- names and sharing ---


@both_ways
def test_default_names_at_the_root_are_those_of_every_call(wrap):
    net = module(lambda self, x: norm(norm(dense(x))))
    call = wrap(net)
    seen = [names(net) for _ in range(3) if call(X) is not None]
    expected = [f"batch_normalization{i}/{p}" for i in ("", "_1") for p in PARAMETERS]
    assert seen == [[*expected, "dense/bias", "dense/kernel"]] * 3


@both_ways
def test_default_scope_names_are_those_of_every_call(wrap):
    def method(self, x):
        for _ in range(2):
            with v1.variable_scope(None, "block"):
                x = x * v1.get_variable("w", [3])
        return x

    net = module(method)
    call = wrap(net)
    for _ in range(3):
        call(X)
    assert names(net) == ["block/w", "block_1/w"]


def test_eager_code_and_functions_share_variables_and_each_call_updates_them():
    net = module(lambda self, x: norm(x, name="n"))
    for call in (net, tf.function(net), tf.function(net, jit_compile=True)):
        call(X)
    assert names(net) == [f"n/{p}" for p in PARAMETERS]
    np.testing.assert_allclose(net.variables[2], X.mean(0) * (1 - 0.5**3), rtol=1e-5)


def test_the_scope_around_the_call_prefixes_names():
    net = module(lambda self, x: norm(x))
    with v1.variable_scope("outer"):
        net(X)
        net(X)
    assert names(net) == [f"outer/batch_normalization/{p}" for p in PARAMETERS]


def test_scopes_opened_before_do_not_change_default_names():
    net = module(lambda self, x: norm(x))
    for _ in range(2):
        with v1.variable_scope(None, "batch_normalization"):
            pass
        net(X)
    assert names(net) == [f"batch_normalization/{p}" for p in PARAMETERS]


def test_settings_of_the_scope_around_the_call_hold():
    net = module(lambda self, x: x * v1.get_variable("v", [3]))
    with v1.variable_scope("o", constraint=tf.nn.relu, initializer=v1.ones_initializer()):
        net(X)
    assert net.variables[0].constraint is tf.nn.relu
    np.testing.assert_array_equal(net.variables[0], np.ones(3))


def test_calls_leave_no_trace_in_the_scopes_around_them():
    def default_name():
        with v1.variable_scope(None, "batch_normalization") as scope:
            return scope.name

    with v1.variable_scope("outer"):
        module(lambda self, x: norm(x))(X)
        assert default_name() == "outer/batch_normalization"
    assert v1.get_variable_scope().name == ""


def test_nested_objects_have_their_own_variables_under_the_callers_scope():
    inner = module(lambda self, x: norm(x))

    def method(self, x):
        with v1.variable_scope("o"):
            return inner(dense(x))

    outer = module(method)
    for _ in range(2):
        outer(X)
    assert names(inner) == [f"o/batch_normalization/{p}" for p in PARAMETERS]
    assert names(outer) == ["o/dense/bias", "o/dense/kernel"]


def test_all_methods_of_an_object_share_its_variables_and_may_call_each_other():
    class Net(tf.Module):
        @track_tf1_style_variables
        def encode(self, x):
            return dense(x)

        @track_tf1_style_variables
        def twice(self, x, depth=2):
            return x if depth == 0 else self.twice(self.encode(x), depth - 1)

    net = Net()
    net.twice(X)
    net.encode(X)
    assert names(net) == ["dense/bias", "dense/kernel"]


def test_threads_that_make_a_variable_at_once_get_the_same():
    together = threading.Barrier(4)
    found = []

    def value():
        together.wait(timeout=30)
        return X[0]

    net = module(lambda self, x: norm(x * v1.get_variable("v", initializer=value)))
    note = track_tf1_style_variables(lambda self: found.append(v1.get_variable("v", initializer=value)))

    def call():
        note(net)
        net(X)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({id(variable) for variable in found}) == 1
    assert names(net) == [*(f"batch_normalization/{p}" for p in PARAMETERS), "v"]


def test_a_layer_object_made_in_the_method_finds_its_variables():
    def method(self, x):
        self.layer = BatchNormalization(name="object", renorm=True)
        return self.layer(x, training=True)

    net = module(method)
    net(X)
    first = [v.ref() for v in net.layer.variables]
    net(X)
    assert [v.ref() for v in net.layer.variables] == first
    assert net.layer.updates == []


@both_ways
def test_templates_keep_their_variables(wrap):
    template = v1.make_template("t", lambda x: x * v1.get_variable("w", [3]))
    net = module(lambda self, x: template(template(x)))
    call = wrap(net)
    for _ in range(2):
        call(X)
    assert names(net) == ["t/w"]


def test_custom_getters_of_scopes_and_of_single_variables():
    def renamed(getter, name, *args, **kwargs):
        return getter(name + "_r", *args, **kwargs)

    def frozen(getter, *args, trainable, **kwargs):
        return getter(*args, trainable=False, **kwargs)

    def method(self, x):
        with v1.variable_scope("s", custom_getter=frozen):
            a = v1.get_variable("a", [3])
            b = v1.get_variable("b", [3], custom_getter=renamed)
        return x * a * b

    net = module(method)
    for _ in range(2):
        net(X)
    assert names(net) == ["s/a", "s/b_r"]
    assert [v.name for v in net.trainable_variables] == ["s/b_r:0"]


def test_collections_stay_as_they_are():
    def method(self, x):
        with v1.variable_scope("s", regularizer=tf.reduce_sum):
            return norm(dense(x, collections=["mine"]))

    graphs = []
    call = tf.function(lambda x: (graphs.append(v1.get_default_graph()), module_(x))[1])
    module_ = module(method)
    call(X)
    module_(X)
    keys = v1.GraphKeys
    for graph in (*graphs, v1.get_default_graph()):
        for key in (keys.GLOBAL_VARIABLES, keys.UPDATE_OPS, keys.REGULARIZATION_LOSSES, "mine"):
            assert graph.get_collection(key) == []


# --- the variables themselves ---


@both_ways
def test_initial_values(wrap):
    def method(self, x):
        v1.get_variable("default", [200, 300])
        v1.get_variable("integer", [2], dtype=tf.int32)
        v1.get_variable("flag", [2], dtype=tf.bool)
        v1.get_variable("tensor", initializer=tf.constant([1, 2]))
        v1.get_variable("array", initializer=np.ones(2), dtype=tf.float64)
        v1.get_variable("function", initializer=lambda: [3.0])
        v1.get_variable("shaped", [2], initializer=lambda shape, dtype, partition_info: tf.fill(shape, 4.0))
        v1.get_variable("class", [2], initializer=v1.ones_initializer)
        return x

    net = module(method)
    call = wrap(net)
    for _ in range(2):
        call(X)
    values = {v.name: v.numpy() for v in net.variables}
    default = values.pop("default:0")
    assert 0.9 < np.abs(default).max() / np.sqrt(6 / 500) <= 1  # glorot_uniform
    expected = {
        "integer": np.zeros(2, "int32"),
        "flag": np.zeros(2, bool),
        "tensor": np.array([1, 2], "int32"),
        "array": np.ones(2),
        "function": np.array([3], "float32"),
        "shaped": np.full(2, 4, "float32"),
        "class": np.ones(2, "float32"),
    }
    assert values.keys() == {f"{name}:0" for name in expected}
    for name, value in expected.items():
        np.testing.assert_array_equal(values[f"{name}:0"], value, strict=True)


def test_variables_have_values_even_where_tracing_fails_afterwards():
    def method(self, x):
        y = x * v1.get_variable("v", [3], initializer=v1.ones_initializer())
        if not tf.executing_eagerly():
            raise RuntimeError("after the variable")
        return y

    net = module(method)
    with pytest.raises(RuntimeError, match="after the variable"):
        tf.function(net)(X)
    np.testing.assert_array_equal(net(X), X)


def test_trainable_and_constraint_reach_the_variable():
    def method(self, x):
        a = v1.get_variable("a", [3], trainable=False)
        b = v1.get_variable("b", [3], synchronization=tf.VariableSynchronization.ON_READ)
        return x * a * b * v1.get_variable("c", [3], constraint=tf.nn.relu)

    net = module(method)
    net(X)
    assert [v.name for v in net.trainable_variables] == ["c:0"]
    assert net.trainable_variables[0].constraint is tf.nn.relu


def test_checkpoints_name_variables_by_the_store(tmp_path):
    net, other = (module(lambda self, x: norm(x, name="n")) for _ in range(2))
    net(X)
    path = tf.train.Checkpoint(net=net).save(str(tmp_path / "c"))
    keys = [key for key, _ in tf.train.list_variables(path) if "_vars" in key]
    assert keys == [f"net/_tf1_style_var_store/_vars/n.S{p}/.ATTRIBUTES/VARIABLE_VALUE" for p in PARAMETERS]
    other(X * 2)
    tf.train.Checkpoint(net=other).restore(path).assert_existing_objects_matched()
    np.testing.assert_array_equal(other.variables[2], net.variables[2])


def test_in_a_plain_graph_the_object_keeps_variables_too():
    net = module(lambda self, x: norm(x, name="n"))
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        y = net(net(X))
        session.run(v1.global_variables_initializer())
        session.run([y, graph.get_collection("update_ops")])
        mean = session.run(net.variables[2])
        assert names(net) == [f"n/{p}" for p in PARAMETERS]
        assert np.abs(mean).max() > 0.1
    with pytest.raises(ValueError, match=r"in eager code\. The object's variables were made in the graph"):
        net(X)


def test_a_second_graph_is_refused():
    net = module(lambda self, x: dense(x))
    net(X)
    with (
        tf.Graph().as_default(),
        pytest.raises(ValueError, match=r"were made in eager code.*\. Use one object"),
    ):
        net(tf.constant(X))


# --- losses and gradients ---


@both_ways
def test_regularization_losses_are_those_of_now(wrap):
    def method(self, x):
        with v1.variable_scope("s", regularizer=lambda w: tf.reduce_sum(w * w)):
            x = dense(x, initializer=v1.ones_initializer())
            x = x * v1.get_variable("free", [3], regularizer=v1.no_regularizer)
        return norm(x, gamma_regularizer=lambda w: 2 * tf.reduce_sum(w))

    net = module(method)
    assert regularization_losses(net) == []
    call = wrap(net)
    for _ in range(2):
        call(X)
        assert [float(loss) for loss in regularization_losses(net)] == [9, 0, 6]
    next(v for v in net.variables if v.name == "s/dense/kernel:0").assign(np.full((3, 3), 2))
    assert [float(loss) for loss in regularization_losses(net)] == [36, 0, 6]


@both_ways
def test_gradients_reach_the_variables_and_training_lowers_the_loss(wrap):
    net = module(lambda self, x: dense(norm(dense(x, units=4), name="n"), units=4))
    target = np.random.default_rng(1).normal(size=(8, 4)).astype("float32")

    @wrap
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((net(X[:, [0, 1, 2, 2]]) - target) ** 2)
        gradients = tape.gradient(loss, net.trainable_variables)
        for variable, gradient in zip(net.trainable_variables, gradients, strict=True):
            variable.assign_sub(0.1 * gradient)
        return loss

    losses = [float(step()) for _ in range(10)]
    assert len(net.trainable_variables) == 4
    assert losses[-1] < 0.7 * losses[0]
