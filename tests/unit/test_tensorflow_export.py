"""Graphs written to files: they contain TensorFlow's own operations, do the same, and load without the package."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from batchnorm.compat.v1 import layers
from batchnorm.contrib.layers import batch_norm
from batchnorm.keras.layers import BatchNormalization
from tolerances import assert_close
from unit.tensorflow_steps import OPTIONS, SHAPE, arrays, forward, kinds, needs_ops, types
from unit.written_graphs import is_standard, saved_graphs

pytestmark = pytest.mark.needs("tensorflow", "keras")

v1 = tf.compat.v1
X = np.linspace(-2.0, 3.0, 8 * 6, dtype="float32").reshape(8, 6) ** 2
IMAGES = X.reshape(4, 2, 2, 3)


def training_step(options: Any, weights: Any) -> Any:
    def step(x: Any, gamma: Any, beta: Any, dy: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([x, gamma, beta])
            y, batch = forward(options, x, gamma, beta, weights)
        return y, batch.mean, batch.stored_variance, *tape.gradient(y, [x, gamma, beta], output_gradients=dy)

    return step


@needs_ops
def test_every_op_is_written_as_a_function_that_does_the_same(tmp_path):
    module, want = tf.Module(), {}
    weights = tf.reshape(tf.constant([0.0, 1.0, 2.0, 0.5] * 2), [8, 1, 1, 1])
    cases = [
        (name, dtype, weighted) for name in OPTIONS for dtype in ("float32",) for weighted in (False, True)
    ]
    cases += [("plain", "float16", True), ("ghosts with renorm", "float64", False)]
    for name, dtype, weighted in cases:
        given = arrays(OPTIONS[name], dtype)
        large = tf.TensorSpec((None, *SHAPE[1:]), given[0].dtype)
        small = tf.TensorSpec(given[1].shape, given[1].dtype)
        step = training_step(OPTIONS[name], tf.cast(weights, small.dtype) if weighted else None)
        function = tf.function(step, input_signature=[large, small, small, large], autograph=False)
        key = f"{name} {dtype} {weighted}".replace(" ", "_")
        want[key] = given, function(*given)
        assert kinds(function)
        setattr(module, key, function)
    tf.saved_model.save(module, str(tmp_path))
    assert all(map(is_standard, saved_graphs(tmp_path)))
    loaded = tf.saved_model.load(str(tmp_path))
    for key, (given, results) in want.items():
        for value, result in zip(getattr(loaded, key)(*given), results, strict=True):
            scale = max(1.0, float(np.max(np.abs(result))))
            assert_close(tf.cast(value, tf.float64), result, result.dtype, key, scale=scale, summands=72)


@needs_ops
def test_a_graph_as_it_runs_keeps_its_ops():
    with tf.Graph().as_default() as graph:
        layers.batch_normalization(v1.placeholder("float32", [None, 6]), training=True)
        assert is_standard(graph.as_graph_def(add_shapes=True))
        assert is_standard(v1.train.export_meta_graph().graph_def)
        assert "BatchnormKernelsPlainTrain" in types(graph)


def test_a_graph_without_our_ops_is_written_as_it_is():
    with tf.Graph().as_default() as graph:
        tf.sqrt(v1.placeholder("float32", [None]))
        serialize: Any = tf.Graph._as_graph_def
        assert graph.as_graph_def() == serialize.__wrapped__(graph)[0]


# What programs write, and a process that cannot import the package reads.

READER = """
import json, sys
for name in ("batchnorm", "batchnorm._kernels"):
    sys.modules[name] = None
import numpy as np
import tensorflow as tf
v1 = tf.compat.v1
data = json.load(open(sys.argv[1] + "/inputs.json"))
results = {}
for name, how in data["files"].items():
    path, x = f"{sys.argv[1]}/{name}", np.array(data["x"][how["x"]], "float32")
    if how["kind"] == "module":
        loaded = tf.saved_model.load(path)
        outputs = {key: getattr(loaded, key)(x) for key in how["functions"]}
        results |= {f"{name} {key}": np.array(value).tolist() for key, value in outputs.items()}
        continue
    with tf.Graph().as_default(), v1.Session() as session:
        if how["kind"] == "meta":
            v1.train.import_meta_graph(path + ".meta").restore(session, path)
        elif how["kind"] == "frozen":
            graph_def = v1.GraphDef.FromString(open(path, "rb").read())
            tf.import_graph_def(graph_def, name="")
        else:
            v1.saved_model.load(session, ["serve"], path)
        for training in how["training"]:
            feed = {"x:0": x} if training is None else {"x:0": x, "training:0": training}
            results[f"{name} {training}"] = session.run("y:0", feed).tolist()
            if "step" in how and training is not False:
                session.run("step", feed)
                results[f"{name} after"] = session.run(how["step"]).tolist()
print(json.dumps(results))
"""


def write_graph(
    folder: Path, name: str, make: Any, x: Any, dynamic: bool, files: dict[str, Any]
) -> dict[str, Any]:
    """A trained TensorFlow 1 graph, written in every possible way, and its results."""
    want = {}
    with tf.Graph().as_default() as graph, v1.Session() as session:
        fed = v1.placeholder("float32", [None, *x.shape[1:]], name="x")
        training: Any = v1.placeholder_with_default(False, [], name="training") if dynamic else True
        y = tf.identity(make(fed, training), name="y")
        loss = tf.reduce_mean(tf.square(y - 1.0))
        with tf.control_dependencies(v1.get_collection(v1.GraphKeys.UPDATE_OPS)):
            v1.train.GradientDescentOptimizer(0.1).minimize(loss, name="step")
        mean = next(value for value in v1.global_variables() if "moving_mean" in value.name)
        tf.add(mean, 0.0, name="moved")
        session.run(v1.global_variables_initializer())
        feed = {fed: x, training: True} if dynamic else {fed: x}
        session.run("step", feed)
        saver = v1.train.Saver()
        saver.save(session, str(folder / f"{name} meta"))
        v1.saved_model.simple_save(session, str(folder / f"{name} simple"), {"x": fed}, {"y": y})
        kinds_written = ["meta", "simple"]
        if make is not contrib_along:  # its updates would write to constants
            kinds_written.append("frozen")
        frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ["y"])
        (folder / f"{name} frozen").write_bytes(frozen.SerializeToString())
        values = [False, True] if dynamic else [None]
        for kind in kinds_written:
            saver.restore(session, str(folder / f"{name} meta"))
            files[f"{name} {kind}"] = {"kind": kind, "training": values, "x": name.split()[-1]}
            for value in values:
                fed_now = {fed: x} if value is None else {fed: x, training: value}
                want[f"{name} {kind} {value}"] = session.run(y, fed_now)
            if kind != "frozen":
                session.run("step", feed)
                files[f"{name} {kind}"]["step"] = "moved:0"
                want[f"{name} {kind} after"] = session.run("moved:0")
    return want


def v1_layer(x: Any, training: Any) -> Any:
    return layers.batch_normalization(x, training=training)


def v1_renorm(x: Any, training: Any) -> Any:
    return layers.batch_normalization(x, training=training, renorm=True, virtual_batch_size=2)


def contrib(x: Any, training: Any) -> Any:
    return batch_norm(x, is_training=training, scale=True)


def contrib_along(x: Any, training: Any) -> Any:
    return batch_norm(x, is_training=training, updates_collections=None, zero_debias_moving_mean=True)


@needs_ops
def test_what_is_written_loads_without_the_package(tmp_path):
    given = {"matrix": X, "images": IMAGES}
    files: dict[str, Any] = {}
    want: dict[str, Any] = {}
    cases = ((v1_layer, "images"), (v1_renorm, "matrix"), (contrib, "matrix"), (contrib_along, "images"))
    for make, kind in cases:
        for dynamic in (False, True):
            name = f"{make.__name__} {dynamic} {kind}"
            want |= write_graph(tmp_path, name, make, given[kind], dynamic, files)
    # A training function beside the serving one.
    module = tf.Module()
    module.norm = BatchNormalization()
    signature = [tf.TensorSpec([None, 6])]
    module.train = tf.function(lambda x: module.norm(x, training=True), input_signature=signature)
    module.serve = tf.function(lambda x: module.norm(x, training=False), input_signature=signature)
    module.train(X)
    tf.saved_model.save(module, str(tmp_path / "module"), signatures={"serve": module.serve})
    files["module"] = {"kind": "module", "functions": ["serve", "train"], "x": "matrix"}
    want |= {"module serve": module.serve(X), "module train": module.train(X)}
    # A model that normalizes by the batch when it is served.
    inputs = keras.Input([6])
    model = keras.Model(inputs, BatchNormalization()(keras.layers.Dense(6)(inputs), training=True))
    model.compile("sgd", "mse")
    model.fit(X, X, verbose=0)
    model.export(tmp_path / "keras", verbose=False)
    tf.saved_model.save(model, str(tmp_path / "keras2"))
    files["keras"] = {"kind": "module", "functions": ["serve"], "x": "matrix"}
    for folder in ("keras", "keras2", "module"):
        assert all(map(is_standard, saved_graphs(tmp_path / folder)))
    for name, how in files.items():
        if how["kind"] == "meta":
            data = (tmp_path / f"{name}.meta").read_bytes()
            assert is_standard(meta_graph_pb2.MetaGraphDef.FromString(data).graph_def)
    inputs = {"files": files, "x": {name: x.tolist() for name, x in given.items()}}
    (tmp_path / "inputs.json").write_text(json.dumps(inputs))
    want["keras serve"] = model(X)
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path)], capture_output=True, text=True, check=False, env=alone
    )
    assert done.returncode == 0, done.stderr[-3000:]
    got = json.loads(done.stdout.splitlines()[-1])
    assert got.keys() == want.keys()
    for name, value in got.items():
        np.testing.assert_allclose(value, want[name], rtol=2e-5, atol=2e-5, err_msg=name)


# The single op of a plain step in a TensorFlow 1 graph.


@pytest.fixture(params=[False, True], ids=["control flow 1", "control flow 2"])
def control_flow(request):
    enabled = v1.control_flow_v2_enabled()
    (v1.enable_control_flow_v2 if request.param else v1.disable_control_flow_v2)()
    yield request.param
    (v1.enable_control_flow_v2 if enabled else v1.disable_control_flow_v2)()


@needs_ops
@pytest.mark.parametrize("switch", [None, True, False], ids=["training", "asked to train", "asked to infer"])
@pytest.mark.parametrize(
    "parameters",
    [{}, {"scale": False}, {"center": False}, {"scale": False, "center": False}],
    ids=["both", "beta", "gamma", "none"],
)
def test_gradients_of_both_orders(control_flow, switch, parameters):
    results = []
    mean = v1.constant_initializer(0.3)
    statistics = {"moving_mean_initializer": mean, "moving_variance_initializer": ones}
    for fused in (None, False):
        with tf.Graph().as_default() as graph, v1.Session() as session:
            x = v1.placeholder("float64", [None, 6])
            dynamic = switch is not None and fused is None
            training: Any = v1.placeholder_with_default(switch, []) if dynamic else switch is not False
            y = layers.batch_normalization(
                x, training=training, fused=fused, gamma_initializer=ones, **statistics, **parameters
            )
            sources = [x, *(v1.global_variables() if switch is False else v1.trainable_variables())]
            first = tf.gradients(tf.sin(y), sources)
            penalty = sum(tf.reduce_sum(value**3) for value in first)
            second = tf.gradients(penalty, sources, unconnected_gradients="zero")
            session.run(v1.global_variables_initializer())
            results.append(session.run([y, *first, *second], {x: X}))
            assert ("BatchnormKernelsPlainTrain" in types(graph)) is (fused is None)
            assert ("BatchnormKernelsPlainInfer" in types(graph)) is dynamic
    for value, want in zip(*results, strict=True):
        np.testing.assert_allclose(value, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("switch", [True, False])
@pytest.mark.parametrize(
    "options",
    [{"fused": False}, {"virtual_batch_size": 2}, {"renorm": True}],
    ids=lambda options: next(iter(options)),
)
def test_second_gradients_of_composed_steps_in_a_condition(control_flow, switch, options):
    results = []
    for dynamic in (True, False):
        with tf.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder("float64", [None, 6])
            training: Any = v1.placeholder_with_default(switch, []) if dynamic else switch
            y = layers.batch_normalization(x, training=training, **options)
            sources = [x, *v1.trainable_variables()]
            first = tf.gradients(tf.sin(y), sources)
            penalty = sum(tf.reduce_sum(value**3) for value in first)
            second = tf.gradients(penalty, sources, unconnected_gradients="zero")
            session.run(v1.global_variables_initializer())
            results.append(session.run([*first, *second], {x: X}))
    for value, want in zip(*results, strict=True):
        np.testing.assert_allclose(value, want, rtol=1e-9, atol=1e-9)


def ones(shape: Any, dtype: Any = None, partition_info: Any = None) -> Any:
    del partition_info
    return tf.linspace(tf.constant(0.5, dtype), tf.constant(2.0, dtype), shape[0])


@needs_ops
def test_gradients_through_loops(control_flow):
    results = []
    for fused in (None, False):
        with tf.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder("float64", [None, 6])
            layer = layers.BatchNormalization(fused=fused)
            layer(x, training=True)

            def body(step: Any, value: Any, layer: Any = layer) -> Any:
                return step + 1, tf.sin(layer(value, training=True))

            _, y = tf.while_loop(lambda step, _: step < 3, body, [0, x])
            (dx,) = tf.gradients(y**2, x)
            session.run(v1.global_variables_initializer())
            results.append(session.run([y, dx], {x: X}))
    for value, want in zip(*results, strict=True):
        np.testing.assert_allclose(value, want, rtol=1e-9, atol=1e-9)


@needs_ops
@pytest.mark.parametrize("rows", [0, 1, 8])
@pytest.mark.parametrize("dynamic", [False, True])
def test_statistics_for_the_averages(rows, dynamic):
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder("float32", [None, 2, 2, 3])
        training: Any = v1.placeholder_with_default(True, []) if dynamic else True
        layer = layers.BatchNormalization(momentum=0.9)
        layer(x, training=training)
        session.run(v1.global_variables_initializer())
        batch = np.resize(IMAGES, [rows, 2, 2, 3])
        session.run(layer.updates, {x: batch})
        mean, variance = session.run([layer.moving_mean, layer.moving_variance])
    numbers = batch.reshape(-1, 3).astype("float64")
    want = (0.1 * numbers.mean(0), 0.9 + 0.1 * numbers.var(0, ddof=1)) if rows else (np.zeros(3), np.ones(3))
    np.testing.assert_allclose(mean, want[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(variance, want[1], rtol=1e-6, atol=1e-6)
