"""batch_norm in a graph: what is collected where, under which names, and what is refused how."""

import re

import numpy as np
import pytest
import tensorflow as tf

from batchnorm.compat.v1.keras.utils import track_tf1_style_variables
from batchnorm.contrib.layers import batch_norm
from faces.contrib_graph import Net, graph, names

pytestmark = pytest.mark.needs("tensorflow", "tf_slim")

v1 = tf.compat.v1
KEYS = v1.GraphKeys
X = np.random.default_rng(0).normal(1, 2, (6, 3)).astype("float32")
OWN_PATHS = {"kernel": {}, "legacy": {"fused": False, "updates_collections": "my"}}
PATHS = OWN_PATHS | {"layer": {"fused": False}}
each_path = pytest.mark.parametrize("options", PATHS.values(), ids=list(PATHS))
both_modes = pytest.mark.parametrize("mode", ["tf1", "tf2"])


def l2(factor):
    return lambda v: factor * tf.reduce_sum(v * v)


def value_of(tensor):
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        return session.run(tensor)


# --- collections ---


@each_path
def test_regularizers_count_on_every_path(options):
    with graph():
        batch_norm(tf.ones([6, 3]), scale=True, param_regularizers={"gamma": l2(2.0)}, **options)
        (loss,) = v1.get_collection(KEYS.REGULARIZATION_LOSSES)
        assert loss.op.name == "BatchNorm/gamma/Regularizer/mul_1"
        assert value_of(loss) == 6
        batch_norm(
            tf.ones([6, 3]),
            scale=True,
            param_regularizers={"gamma": l2(2.0)},
            scope="BatchNorm",
            reuse=True,
            **options,
        )
        assert len(v1.get_collection(KEYS.REGULARIZATION_LOSSES)) == 1


@each_path
@pytest.mark.parametrize("given", ["vc", ["vc"], ("vc",), {"beta": "vc", "moving_mean": ["vc"]}], ids=str)
def test_variables_are_collected_by_whole_names(given, options):
    with graph() as made:
        batch_norm(tf.ones([6, 3]), variables_collections=given, **options)
        wanted = {"beta", "moving_mean"} | (set() if isinstance(given, dict) else {"moving_variance"})
        assert {name.rsplit("/", 1)[-1] for name in names("vc")} == wanted
        assert not {"v", "c"} & set(made.get_all_collection_keys())


@each_path
def test_reuse_collects_no_variable_twice(options):
    with graph():
        for reuse in (None, True):
            batch_norm(tf.ones([6, 3]), variables_collections=["vc"], scope="s", reuse=reuse, **options)
        expected = {"s/beta", "s/moving_mean", "s/moving_variance"}
        for collection in ("vc", KEYS.GLOBAL_VARIABLES, KEYS.MODEL_VARIABLES):
            assert len(names(collection)) == 3
            assert set(names(collection)) == expected


@pytest.mark.parametrize("collection", [KEYS.UPDATE_OPS, "_".join(["update", "ops"])])
def test_the_updates_name_is_what_it_spells(collection):
    """The original compared the argument by identity, so that a string read from a file chose another path."""
    with graph():
        y = batch_norm(tf.ones([6, 2, 3]), scale=True, updates_collections=collection)
        assert [v.op.name for v in v1.trainable_variables()] == ["BatchNorm/gamma", "BatchNorm/beta"]
        assert all(isinstance(op, tf.Operation) for op in v1.get_collection(KEYS.UPDATE_OPS))
        assert y.op.name == "BatchNorm/batchnorm_1/add_1"


@both_modes
@pytest.mark.parametrize("switch", [False, True], ids=["static", "switched"])
@pytest.mark.parametrize("shape", [(6, 3), (6, 2, 3), (6, 2, 2, 3)], ids=len)
def test_updates_are_tensors_in_each_collection_named(shape, switch, mode):
    with graph(mode):
        training = v1.placeholder_with_default(True, []) if switch else True
        x = np.resize(X, shape)
        batch_norm(
            tf.constant(x),
            0.5,
            updates_collections=["a", "b"],
            is_training=training,
            zero_debias_moving_mean=True,
        )
        assert v1.get_collection("a") == v1.get_collection("b")
        assert not v1.get_collection(KEYS.UPDATE_OPS)
        mean, variance = v1.get_collection("a")
        got = value_of(tf.convert_to_tensor(mean))
        np.testing.assert_allclose(got, x.reshape(-1, 3).mean(0), rtol=1e-5)
        assert value_of(tf.convert_to_tensor(variance)).shape == (3,)


def test_an_empty_list_collects_no_updates():
    with graph() as made:
        batch_norm(tf.constant(X), updates_collections=[])
        assert KEYS.UPDATE_OPS not in made.get_all_collection_keys()


@both_modes
@pytest.mark.parametrize("switch", [False, True], ids=["static", "switched"])
@pytest.mark.parametrize("fused", [None, False])
def test_updates_in_place_run_whenever_y_is_computed_for_training(fused, switch, mode):
    with graph(mode):
        net = Net((6, 3), "float32", switch=switch, decay=0.5, updates_collections=None, fused=fused)
        moved = []
        for _ in range(3):
            net.run(net.trained, X, True)
            moved.append(net.statistics()["moving_mean"])
        net.run(net.inferred, X, False)
        mean = X.mean(0)
        expected = [mean + (0.4 - mean) * 0.5**t for t in (1, 2, 3)]
        np.testing.assert_allclose(moved, expected, rtol=1e-5)
        np.testing.assert_array_equal(net.statistics()["moving_mean"], moved[-1])


@pytest.mark.parametrize("path", PATHS)
def test_what_trainable_false_means_depends_on_the_path(path):
    with graph():
        batch_norm(tf.constant(X), trainable=False, **PATHS[path])
        assert not v1.trainable_variables()
        assert bool(names(KEYS.UPDATE_OPS) + names("my")) is (path in OWN_PATHS)


def test_outputs_are_collected_under_their_scopes_name():
    with graph():
        with v1.variable_scope("outer"):
            y = batch_norm(
                tf.constant(X), activation_fn=tf.nn.relu, outputs_collections=["a", "b"], scope="s"
            )
        assert y.aliases == ["outer/s"]
        assert v1.get_collection("a")[0] is v1.get_collection("b")[0] is y
        assert y.op.type == "Relu"
        assert not hasattr(batch_norm(tf.constant(X)), "aliases")


# --- variables ---


def test_a_default_name_is_new_and_a_scope_is_shared_across_paths():
    with graph():
        for _ in range(2):
            batch_norm(tf.constant(X))
        batch_norm(tf.constant(X), scope="BatchNorm", reuse=True, fused=False)
        batch_norm(
            tf.constant(X), scope="BatchNorm", reuse=v1.AUTO_REUSE, updates_collections="my", fused=False
        )
        assert {v.op.name.split("/")[0] for v in v1.global_variables()} == {"BatchNorm", "BatchNorm_1"}


@both_modes
def test_shadows_lie_under_the_means_full_name_and_are_shared(mode):
    with graph(mode):
        for reuse in (None, True):
            with v1.variable_scope("p", reuse=reuse):
                batch_norm(tf.constant(X), zero_debias_moving_mean=True)
        shadows = [name for name in names(KEYS.GLOBAL_VARIABLES) if name.startswith("p/BatchNorm/p/")]
        under = "p/BatchNorm/p/BatchNorm/moving_mean/"
        assert shadows == [under + "biased", under + "local_step"]


@each_path
def test_a_partitioner_splits_the_parameters_alone(options):
    with graph():
        with v1.variable_scope("s", partitioner=v1.fixed_size_partitioner(3)):
            y = batch_norm(tf.constant(X), scale=True, scope="n", variables_collections=["vc"], **options)
        made = set(names(KEYS.GLOBAL_VARIABLES))
        assert {"s/n/gamma/part_2", "s/n/beta/part_0", "s/n/moving_mean"} <= made
        assert set(names("vc")) == set(names(KEYS.MODEL_VARIABLES)) == made
        np.testing.assert_allclose(value_of(y).mean(0), 0, atol=1e-6)


@each_path
def test_the_scopes_getter_sees_every_variable(options):
    seen = []

    def remember(getter, name, *args, **kwargs):
        seen.append(name)
        return getter(name, *args, **kwargs)

    with graph(), v1.variable_scope("s", custom_getter=remember):
        batch_norm(tf.constant(X), scope="n", renorm="fused" in options, **options)
        assert sorted(seen) == sorted(names(KEYS.GLOBAL_VARIABLES))


# --- training known at run time ---


@both_modes
@pytest.mark.parametrize("kind", ["variable", "constant", "number"])
@each_path
def test_training_may_be_given_in_any_form(options, kind, mode):
    with graph(mode):
        value = {
            "variable": lambda: v1.Variable(True),
            "constant": lambda: tf.constant(True),
            "number": lambda: np.int64(1),
        }[kind]()
        y = batch_norm(tf.constant(X), is_training=value, **options)
        np.testing.assert_allclose(value_of(y).mean(0), 0, atol=1e-6)
        assert len(names(KEYS.UPDATE_OPS) + names("my")) == 2


# --- refusals ---


def call(**options):
    shape = options.pop("shape", (None, 3))
    return batch_norm(v1.placeholder(options.pop("dtype", "float32"), shape), **options)


REFUSALS = [
    ({"data_format": "NHCW"}, ValueError, r"data_format='NHCW'.*NCHW or NHWC.*Pass one"),
    ({"data_format": None}, ValueError, "data_format=None"),
    ({"shape": None}, ValueError, r"<unknown>.*undefined rank.*ensure_shape"),
    ({"shape": None, "updates_collections": None}, ValueError, "undefined rank"),
    ({"shape": (None, None)}, ValueError, r"\(None, None\).*undefined channels dimension.*axis 1"),
    ({"shape": (8, None, 3), "data_format": "NCHW"}, ValueError, r"NCHW.*undefined channels.*axis 1"),
    ({"shape": ()}, ValueError, "rank 0"),
    ({"shape": (), "updates_collections": None}, ValueError, "rank 0"),
    ({"shape": (4,), "data_format": "NCHW"}, ValueError, "rank 1"),
    ({"is_training": None}, ValueError, r"is_training=None.*learning phase.*Pass True"),
    ({"is_training": "yes"}, TypeError, "'yes'"),
    ({"reuse": True}, ValueError, r"reuse=True.*without a scope.*Name the scope"),
    ({"reuse": v1.AUTO_REUSE}, ValueError, "without a scope"),
    ({"reuse": True, "scope": "new"}, ValueError, "new/beta"),
    (
        {"shape": (8, 3), "batch_weights": [1.0] * 4},
        ValueError,
        r"\(4,\).*\(8, 3\).*one weight for each example",
    ),
    ({"batch_weights": np.ones((8, 1))}, ValueError, r"\(8, 1\).*Pass a vector"),
    ({"dtype": "int32"}, TypeError, r"int32.*floating.*Cast it"),
    ({"dtype": "int32", "updates_collections": None}, TypeError, "int32"),
    ({"renorm": True, "renorm_clipping": {"z": 1}}, ValueError, r"\['z'\].*rmin, rmax, dmax"),
    ({"renorm": True, "renorm_clipping": {"z": 1}, "batch_weights": [1]}, ValueError, r"\['z'\]"),
    ({"adjustment": lambda shape: (1.0, None), "updates_collections": None}, ValueError, "None"),
    ({"decay": None}, TypeError, "None"),
    (
        {"renorm": True, "renorm_form": "debiased", "zero_debias_moving_mean": True},
        ValueError,
        r"Debiased renorm and zero-debias.*Use",
    ),
    ({"virtual_batch_size": 2}, TypeError, "virtual_batch_size"),
]


@pytest.mark.parametrize(
    ("options", "error", "message"), REFUSALS, ids=lambda value: re.sub(r" at 0x\w+", "", str(value))[:60]
)
def test_refusals_say_what_was_asked_and_what_to_do(options, error, message):
    with graph(), pytest.raises(error, match=f"(?s){message}"):
        call(**options)


def test_a_wrong_data_format_uses_up_no_name():
    with graph():
        with pytest.raises(ValueError, match="data_format"):
            call(data_format="channels_last")
        assert call().op.name.startswith("BatchNorm/")


def test_a_call_outside_graphs_and_trackers_is_refused():
    with pytest.raises(ValueError, match=r"batch_norm was called eagerly.*track_tf1_style_variables"):
        batch_norm(X)


@pytest.mark.parametrize(
    "options",
    [{}, {"fused": False}, {"zero_debias_moving_mean": True, "updates_collections": None, "renorm": True}],
    ids=str,
)
@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "function"])
def test_a_tracker_keeps_the_variables_and_runs_the_updates(wrap, options):
    class Module(tf.Module):
        @track_tf1_style_variables
        def __call__(self, x, training=True):
            return batch_norm(x, decay=0.5, is_training=training, **options)

    net = Module()
    train = wrap(net)
    for _ in range(2):
        y = train(X)
    assert y.shape == X.shape
    mean = next(v for v in net.variables if v.name == "BatchNorm/moving_mean:0")
    share = 1 if options.get("zero_debias_moving_mean") else 0.75
    np.testing.assert_allclose(mean, share * X.mean(0), rtol=1e-5)
    train(X, training=False)
    np.testing.assert_allclose(mean, share * X.mean(0), rtol=1e-5)


@each_path
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["known", "at run time"])
def test_rows_are_inferred_by_few_operations_that_keep_a_large_mean(options, dtype, dynamic):
    with graph() as made:
        x = v1.placeholder(dtype, [None, 3])
        y = batch_norm(x, is_training=v1.placeholder_with_default(False, []) if dynamic else False, **options)
        assert y.shape.as_list() == [None, 3]
        kinds = [op.type for op in made.get_operations()]
        # With oneDNN, a small one takes longer than all other operations together.
        assert "FusedBatchNormV3" not in kinds
        if not dynamic:
            assert sum(kinds.count(kind) for kind in ("Add", "AddV2", "Sub", "Mul", "Rsqrt")) <= 6
        (dx,) = v1.gradients(y, x)
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            mean, variance = (
                next(v for v in v1.global_variables() if v.op.name.endswith(name))
                for name in ("moving_mean", "moving_variance")
            )
            mean.load([2e3, 0.0, -1e3], session)
            variance.load([4.0, 1.0, 0.25], session)
            numbers = (X * [2, 1, 0.5] + [2e3, 0, -1e3]).astype(dtype)
            scale = 1 / np.sqrt(np.array([4.0, 1.0, 0.25]) + 1e-3)
            got, slope, empty = *session.run([y, dx], {x: numbers}), session.run(y, {x: numbers[:0]})
    rtol = {"float16": 2e-3, "float32": 2e-6, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(got, (numbers - np.array([2e3, 0, -1e3])) * scale, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(slope, np.broadcast_to(scale, X.shape), rtol=rtol)
    assert empty.shape == (0, 3)


def test_a_caching_device_hides_no_earlier_update():
    with graph(), v1.variable_scope("scope", caching_device=lambda op: "/cpu:0"):
        batch_norm(tf.constant(X), decay=0.5, is_training=True, scope="bn")
        updates = v1.get_collection(KEYS.UPDATE_OPS)
        with tf.control_dependencies(updates):
            batch_norm(
                tf.constant(3 * X),
                decay=0.5,
                is_training=True,
                scope="bn",
                reuse=True,
                updates_collections="second",
            )
        mean = next(v for v in v1.global_variables() if v.op.name.endswith("moving_mean"))
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            session.run(v1.get_collection("second"))
            found = session.run(mean.read_value())
    np.testing.assert_allclose(found, 0.5 * 0.5 * X.mean(0) + 0.5 * 3 * X.mean(0), rtol=1e-5)
