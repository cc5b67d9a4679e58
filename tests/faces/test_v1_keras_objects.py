"""Regularizers, constraints and initializers of Keras 3 on graph variables of both kinds."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from batchnorm.compat.v1 import layers
from batchnorm.contrib.layers import batch_norm

pytestmark = pytest.mark.needs("tensorflow", "keras", "tf_keras")

v1 = tf.compat.v1
X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
GAMMA = np.array([0.5, -2.0, 1.0], "float32")
REGULARIZERS = {
    "l2": ("l2", lambda g: 0.01 * np.sum(g**2)),
    "L2": (keras.regularizers.L2(0.1), lambda g: 0.1 * np.sum(g**2)),
    "L1": (keras.regularizers.L1(0.1), lambda g: 0.1 * np.sum(np.abs(g))),
    "L1L2": (keras.regularizers.L1L2(0.1, 0.2), lambda g: np.sum(0.1 * np.abs(g) + 0.2 * g**2)),
    "config": (
        {"class_name": "L1L2", "config": {"l1": 0.1, "l2": 0.2}},
        lambda g: np.sum(0.1 * np.abs(g) + 0.2 * g**2),
    ),
}
CONSTRAINTS = {
    "non_neg": ("non_neg", lambda g: np.maximum(g, 0)),
    "NonNeg": (keras.constraints.NonNeg(), lambda g: np.maximum(g, 0)),
    "MaxNorm": (keras.constraints.MaxNorm(0.5), lambda g: g * min(1, 0.5 / np.linalg.norm(g))),
    "UnitNorm": (keras.constraints.UnitNorm(), lambda g: g / np.linalg.norm(g)),
}


def start(shape, dtype=None, partition_info=None):
    return tf.constant(GAMMA, dtype)


def by_layer(x, rule):
    return layers.batch_normalization(x, training=True, gamma_initializer=start, gamma_regularizer=rule)


def by_contrib(x, rule, **options):
    return batch_norm(
        x, scale=True, param_initializers={"gamma": start}, param_regularizers={"gamma": rule}, **options
    )


FACES = {
    "v1": by_layer,
    "contrib": lambda x, rule: by_contrib(x, rule, updates_collections=None),
    "contrib, through the layer": lambda x, rule: by_contrib(tf.reshape(x, [2, 3, 3]), rule),
}


@pytest.fixture(params=["ref", "resource"], autouse=True)
def kind(request):
    with tf.Graph().as_default():
        v1.get_variable_scope().set_use_resource(request.param == "resource")
        yield request.param


def run(*fetches):
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        return [session.run(each) for each in fetches]


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("name", REGULARIZERS)
def test_regularizers(name, face):
    rule, wanted = REGULARIZERS[name]
    FACES[face](tf.constant(X), rule)
    (loss,) = v1.get_collection(v1.GraphKeys.REGULARIZATION_LOSSES)
    assert "/gamma/Regularizer/" in loss.op.name
    (gamma,) = [v for v in v1.trainable_variables() if v.op.name.endswith("gamma")]
    found, slope = run(loss, v1.gradients(loss, gamma)[0])
    np.testing.assert_allclose(found, wanted(GAMMA), rtol=1e-6)
    steps = np.eye(3) * 1e-4
    slopes = [(wanted(GAMMA + step) - wanted(GAMMA - step)) / 2e-4 for step in steps.astype("float64")]
    np.testing.assert_allclose(slope, slopes, rtol=1e-4)


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints(name):
    rule, wanted = CONSTRAINTS[name]
    y = layers.batch_normalization(
        tf.constant(X), training=True, gamma_initializer=start, gamma_constraint=rule, center=False
    )
    step = v1.train.GradientDescentOptimizer(0.0).minimize(tf.reduce_sum(y**2))
    (gamma,) = v1.trainable_variables()
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        session.run(step)
        found = session.run(gamma)
    np.testing.assert_allclose(found, wanted(GAMMA), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_regularizers_of_a_scope(dtype):
    with v1.variable_scope("s", regularizer=keras.regularizers.L1(0.1)):
        layers.batch_normalization(tf.constant(X, dtype), gamma_initializer=start, name="n")
        batch_norm(tf.constant(X, dtype), scale=True, param_initializers={"gamma": start})
    losses = {loss.op.name.split("/Reg")[0]: loss for loss in v1.get_collection("regularization_losses")}
    (found,) = run(losses)
    for name in ("s/n/gamma", "s/BatchNorm/gamma"):
        np.testing.assert_allclose(found[name], 0.1 * np.sum(np.abs(GAMMA)), rtol=1e-6)


@pytest.mark.parametrize("made", ["before", "in the graph"])
def test_initializers(made):
    def make():
        return keras.initializers.RandomNormal(2.0, 0.1, seed=1), keras.initializers.Constant(4.0)

    with tf.init_scope() if made == "before" else tf.control_dependencies([]):
        gamma, variance = make()
    given = {"gamma_initializer": gamma, "moving_variance_initializer": variance}
    layers.batch_normalization(tf.constant(X), renorm=True, **given)
    (values,) = run({v.op.name.split("/")[-1]: v for v in v1.global_variables()})
    assert np.abs(values["gamma"] - 2.0).max() < 0.5
    assert len(set(values["gamma"])) == 3
    np.testing.assert_array_equal(values["renorm_stddev"], np.full(3, 2.0))


def test_the_layer_keeps_the_object_itself():
    rule = keras.regularizers.L2(0.1)
    layer = layers.BatchNormalization(gamma_regularizer=rule, gamma_constraint="non_neg")
    layer(tf.constant(X))
    assert layer.gamma_regularizer is rule
    assert layer.get_config()["gamma_constraint"]["class_name"] == "NonNeg"
