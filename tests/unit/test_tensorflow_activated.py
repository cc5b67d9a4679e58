"""TensorFlow 1 graphs: the gradient of a step takes over that of an activation behind it, and nothing else changes."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from batchnorm._engines.tensorflow import graph_step
from batchnorm.compat.v1 import layers
from batchnorm.contrib.layers import batch_norm
from unit.tensorflow_steps import needs_ops
from unit.written_graphs import is_standard, written

pytestmark = [pytest.mark.needs("tensorflow"), needs_ops]

v1 = tf.compat.v1
X = np.random.default_rng(0).normal(0.5, 2.0, (8, 3, 3, 5))
GRADIENTS = "BatchnormKernelsPlainGradients"
ACTIVATIONS = {
    1: tf.nn.relu,
    2: tf.nn.relu6,
    3: lambda u: tf.nn.leaky_relu(u, 0.3),
    9: tf.sigmoid,
    10: tf.tanh,
}


def taken(graph: Any) -> set[int]:
    """The activations whose gradients ours have taken over; 0 stands for none."""
    return {op.get_attr("activation") for op in graph.get_operations() if op.type == GRADIENTS}


def normalize(x: Any, act: Any, **options: Any) -> Any:
    ramp = v1.constant_initializer([0.5, 0.8, 1.0, 1.5, 2.0])
    initializers = {"beta": ramp, "gamma": ramp}
    return batch_norm(x, is_training=True, activation_fn=act, param_initializers=initializers, **options)


@pytest.mark.parametrize(
    "options",
    [{"scale": True}, {}, {"center": False}, {"scale": True, "updates_collections": None}],
    ids=["both", "beta", "none", "along"],
)
@pytest.mark.parametrize("number", ACTIVATIONS)
def test_gradients_of_both_orders(number, options, monkeypatch):
    results = []
    for takes in (True, False):
        if not takes:
            monkeypatch.setattr(graph_step, "through_activation", lambda dy, y: (dy, None))
        with tf.Graph().as_default() as graph, v1.Session() as session:
            x = v1.placeholder("float64", [None, 3, 3, 5])
            y = normalize(x, ACTIVATIONS[number], **options)
            sources = [x, *v1.trainable_variables()]
            first = tf.gradients(tf.sin(y), sources)
            second = tf.gradients(sum(tf.reduce_sum(value**3) for value in first), sources)
            assert taken(graph) == {number if takes else 0}
            session.run(v1.global_variables_initializer())
            results.append(session.run([y, *first, *second], {x: X}))
    for value, want in zip(*results, strict=True):
        np.testing.assert_allclose(value, want, rtol=1e-9, atol=1e-9 * np.max(np.abs(want)))


def test_the_activation_stays_an_operation():
    with tf.Graph().as_default() as graph, v1.Session() as session:
        x = v1.placeholder("float32", [None, 3, 3, 5])
        y = normalize(x, tf.nn.relu)
        assert (y.name, y.op.type) == ("BatchNorm/Relu:0", "Relu")
        before = y.op.inputs[0]
        assert before.op.name.endswith("/FusedBatchNormV3")
        dx, du = tf.gradients(y, [x, before])
        assert taken(graph) == {1}
        session.run(v1.global_variables_initializer())
        u, du, dx = session.run([before, du, dx], {x: X})
        np.testing.assert_array_equal(du, u > 0)
        assert np.all(np.isfinite(dx))


def normalized_twice(x: Any) -> Any:
    u = layers.batch_normalization(x, training=True)
    return tf.nn.relu(u) + u


def overridden(x: Any) -> Any:
    with tf.Graph.gradient_override_map(tf.compat.v1.get_default_graph(), {"Relu": "Relu6"}):
        return tf.nn.relu(layers.batch_normalization(x, training=True))


def after_another_operation(x: Any) -> Any:
    return tf.nn.relu(layers.batch_normalization(x, training=True) + 1.0)


@pytest.mark.parametrize("build", [normalized_twice, overridden, after_another_operation])
def test_other_gradients_are_left_alone(build, monkeypatch):
    results = []
    for takes in (True, False):
        if not takes:
            monkeypatch.setattr(graph_step, "through_activation", lambda dy, y: (dy, None))
        with tf.Graph().as_default() as graph, v1.Session() as session:
            x = v1.placeholder("float64", [None, 3, 3, 5])
            (dx,) = tf.gradients(tf.sin(build(x)), x)
            session.run(v1.global_variables_initializer())
            results.append(session.run(dx, {x: X}))
            assert takes is False or build is overridden or taken(graph) == {0}
    np.testing.assert_array_equal(*results)


def test_what_is_written_does_the_same():
    with tf.Graph().as_default() as graph, v1.Session() as session:
        x = v1.placeholder("float64", [None, 3, 3, 5], name="x")
        y = normalize(x, tf.nn.relu, scale=True)
        (dx,) = tf.gradients(tf.sin(y), x)
        tf.identity(dx, name="dx")
        session.run(v1.global_variables_initializer())
        want = session.run(dx, {x: X})
        frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ["dx"])
        assert taken(graph) == {1}
    assert is_standard(frozen)
    assert "PartitionedCall" in written(frozen)
    with tf.Graph().as_default(), v1.Session() as session:
        tf.import_graph_def(frozen, name="")
        np.testing.assert_allclose(session.run("dx:0", {"x:0": X}), want, rtol=1e-9, atol=1e-9)
