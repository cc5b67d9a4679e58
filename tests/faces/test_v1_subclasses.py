"""Subclasses of the v1 layer as real programs write them, and what they find on the layer."""

import copy

import numpy as np
import pytest
import tensorflow as tf

from batchnorm.compat.v1.layers import BatchNormalization

pytestmark = pytest.mark.needs("tensorflow", "tf_keras")

v1 = tf.compat.v1
UPDATES = v1.GraphKeys.UPDATE_OPS


@pytest.fixture
def session():
    with tf.Graph().as_default(), v1.Session() as session:
        yield session


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 2 + 1


def start(session):
    session.run(v1.global_variables_initializer())


class TpuBatchNormalization(BatchNormalization):
    """As in EfficientNet: the moments of all shards, here of the batch and its mirror image."""

    def __init__(self, fused=False, **kwargs):
        if fused in (True, None):
            raise ValueError("TpuBatchNormalization does not support fused=True.")
        super().__init__(fused=fused, **kwargs)

    def _moments(self, inputs, reduction_axes, keep_dims):  # as TensorFlow 1 called it
        mean, variance = super()._moments(inputs, reduction_axes, keep_dims=keep_dims)
        square = variance + tf.square(mean)
        mean, square = (mean - mean) / 2.0, (square + square) / 2.0
        return mean, square - tf.square(mean)


@pytest.mark.parametrize("shape", [(8, 3), (4, 2, 2, 3)])
def test_moments_over_shards(session, shape):
    x = normal(*shape)
    layer = TpuBatchNormalization(momentum=0.5, name="tpu_batch_normalization")
    y = layer(tf.constant(x), training=True)
    start(session)
    axes = tuple(range(len(shape) - 1))
    expected = x / np.sqrt((x**2).mean(axes) + 1e-3)
    np.testing.assert_allclose(session.run(y), expected, rtol=1e-5, atol=1e-6)
    session.run(v1.get_collection(UPDATES))
    np.testing.assert_allclose(session.run(layer.moving_variance), 0.5 + 0.5 * (x**2).mean(axes), rtol=1e-5)


def test_gradient_of_own_moments_is_that_of_finite_differences(session):
    x, w = normal(8, 3).astype(np.float64), normal(8, 3, seed=1).astype(np.float64)
    inputs = v1.placeholder(tf.float64, [None, 3])
    y = TpuBatchNormalization(renorm=True)(inputs, training=True)
    loss = tf.reduce_sum(tf.sin(y) * w)
    (dx,) = tf.gradients(loss, [inputs])
    start(session)
    # The gradient treats r and d as constants, so they are held fixed here too, far from their bounds.
    got = session.run(dx, {inputs: x})
    mean, spread = np.zeros(3), np.sqrt((x**2).mean(0) + 1e-3)
    fixed = spread  # r = spread / 1 and d = mean / 1

    def value(x):
        return np.sum(np.sin(x / np.sqrt((x**2).mean(0) + 1e-3) * fixed + mean) * w)

    step, numeric = 1e-6, np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        ahead, behind = x.copy(), x.copy()
        ahead[index] += step
        behind[index] -= step
        numeric[index] = (value(ahead) - value(behind)) / (2 * step)
    np.testing.assert_allclose(got, numeric, rtol=1e-6, atol=1e-7)


def test_mask_for_moments_that_take_none(session):
    layer = TpuBatchNormalization()
    with pytest.raises(ValueError, match=r"takes no mask was called with one.*would be ignored"):
        layer(tf.constant(normal(4, 3)), training=True, mask=tf.ones([4]))


def test_older_assignment_without_a_size(session):
    class Older(BatchNormalization):
        def _assign_moving_average(self, variable, value, momentum):
            return v1.assign(variable, value)

    x = normal(8, 3)
    layer = Older()
    layer(tf.constant(x), training=True)
    start(session)
    session.run(layer.updates)
    np.testing.assert_allclose(session.run(layer.moving_mean), x.mean(0), rtol=1e-5)


def test_hook_assigned_to_the_class(session, monkeypatch):
    def moments(self, inputs, reduction_axes, keep_dims, mask=None):
        return tf.zeros([3]), tf.ones([3])

    monkeypatch.setattr(BatchNormalization, "_moments", moments)
    x = normal(8, 3)
    y = BatchNormalization()(tf.constant(x), training=True)
    start(session)
    np.testing.assert_allclose(session.run(y), x / np.sqrt(1.001), rtol=1e-6)


def test_hook_of_one_layer(session):
    layer = BatchNormalization()
    layer._moments = lambda inputs, axes, keep_dims, mask=None: (tf.zeros([3]), tf.ones([3]))
    x = normal(8, 3)
    y = layer(tf.constant(x), training=True)
    start(session)
    np.testing.assert_allclose(session.run(y), x / np.sqrt(1.001), rtol=1e-6)


def test_fused_layer_says_that_it_skips_moments(session):
    class Skipped(BatchNormalization):
        def _moments(self, inputs, reduction_axes, keep_dims, mask=None):
            raise AssertionError

    with pytest.warns(
        UserWarning, match=r"Skipped overrides _moments and normalizes images fused.*fused=False"
    ):
        Skipped()(tf.constant(normal(2, 2, 2, 3)), training=True)


@pytest.mark.parametrize("order", ["interleaved", "contiguous"])
def test_moments_of_ghosts(session, order):
    class Halved(BatchNormalization):
        def _moments(self, inputs, reduction_axes, keep_dims, mask=None):
            mean, variance = super()._moments(inputs, reduction_axes, keep_dims, mask=mask)
            return mean * 0.5, variance * 4.0

    x = normal(6, 3)
    mask = np.array([1, 1, 0, 1, 1, 1], np.float32)
    layer = Halved(virtual_batch_size=2, ghost_order=order, momentum=0.0)
    plain = BatchNormalization(virtual_batch_size=2, ghost_order=order, momentum=0.0, epsilon=1e-3 / 4)
    results = [each(tf.constant(x), training=True, mask=tf.constant(mask)) for each in (layer, plain)]
    start(session)
    one, two = session.run(results)
    groups = x.reshape(3, 2, 3) if order == "contiguous" else x.reshape(2, 3, 3).swapaxes(0, 1)
    weights = mask.reshape(3, 2, 1) if order == "contiguous" else mask.reshape(2, 3, 1).swapaxes(0, 1)
    mean = (groups * weights).sum(1, keepdims=True) / weights.sum(1, keepdims=True)
    variance = (weights * (groups - mean) ** 2).sum(1, keepdims=True) / weights.sum(1, keepdims=True)
    expected = (groups - 0.5 * mean) / np.sqrt(4.0 * variance + 1e-3)
    back = expected if order == "contiguous" else expected.swapaxes(0, 1)
    np.testing.assert_allclose(one, back.reshape(6, 3), rtol=1e-4, atol=1e-5)
    assert np.abs(one - two).max() > 0.1
    session.run(layer.updates)
    np.testing.assert_allclose(session.run(layer.moving_mean).ravel(), 0.5 * mean.mean(0).ravel(), rtol=1e-4)


def test_weights_are_set_and_read(session):
    layer = BatchNormalization(renorm=True)
    layer(tf.constant(normal(4, 3)), training=True)
    start(session)
    n_ops = len(session.graph.get_operations())
    values = [np.full(3, float(i), np.float32) for i in range(len(layer.weights))]
    layer.set_weights(values)
    np.testing.assert_array_equal(layer.get_weights(), values)
    assert len(session.graph.get_operations()) == n_ops
    with pytest.raises(ValueError, match=r"arrays of shapes.*Its weights have shapes"):
        layer.set_weights(values[:2])


def test_weights_given_at_construction(session):
    values = [np.full(3, float(i + 1), np.float32) for i in range(4)]
    layer = BatchNormalization(weights=values)
    layer(tf.constant(normal(4, 3)))
    start(session)
    np.testing.assert_array_equal(session.run(layer.weights), values)


def test_losses_and_updates_that_a_subclass_adds(session):
    class Adds(BatchNormalization):
        def call(self, inputs, training=False):
            y = super().call(inputs, training=training)
            self.add_loss(tf.reduce_mean(y), inputs=inputs)
            self.add_loss(lambda: tf.reduce_sum(self.gamma))
            self.add_update(v1.assign_add(self.moving_mean, tf.ones([3])))
            return y

    x = tf.constant(normal(4, 3))
    layer = Adds()
    layer(x)
    assert len(layer.losses) == 2
    assert v1.get_collection(v1.GraphKeys.REGULARIZATION_LOSSES) == layer.losses
    assert len(layer.updates) == len(v1.get_collection(UPDATES)) == 1
    assert layer.get_updates_for(None) == layer.updates
    assert [len(layer.get_losses_for(each)) for each in (x, None)] == [1, 1]


def test_subclass_is_made_again_from_its_config():
    class Narrow(BatchNormalization):
        def __init__(
            self, axis=-1, momentum=0.9, epsilon=1e-3, name=None, trainable=True, dtype=None, **kwargs
        ):
            assert not set(kwargs) & {"ghost_order", "renorm_form", "fused", "renorm", "virtual_batch_size"}
            super().__init__(axis, momentum, epsilon, name=name, trainable=trainable, dtype=dtype, **kwargs)

    twin = Narrow.from_config(Narrow(momentum=0.7, name="n").get_config())
    assert (twin.momentum, twin.name) == (0.7, "n")


def test_used_layer_can_be_copied(session):
    layer = BatchNormalization(name="a")
    layer(tf.constant(normal(4, 3)), training=True)
    twin = copy.deepcopy(layer)
    assert twin.gamma is layer.gamma
    layer(tf.constant(normal(4, 3)), training=True)
    assert (len(twin.updates), len(layer.updates)) == (2, 4)


def test_checkpoint_keys_are_the_variables_names(session):
    layer = BatchNormalization(renorm=True)
    layer(tf.constant(normal(4, 3)))
    names = {
        "gamma",
        "beta",
        "moving_mean",
        "moving_variance",
        "moving_stddev",
        "renorm_mean",
        "renorm_stddev",
    }
    assert set(layer._trackable_children()) == names
    owner = tf.Module()
    owner.norm = layer
    assert len(owner.variables) == 7


def test_own_moments_of_ghosts_when_training_is_fed(session):
    x, training = v1.placeholder(tf.float32, [None, 3]), v1.placeholder(tf.bool, [])
    fed = TpuBatchNormalization(virtual_batch_size=2)(x, training=training)
    known = TpuBatchNormalization(virtual_batch_size=2)(x, training=True)
    start(session)
    one, two = session.run([fed, known], {x: normal(6, 3), training: True})
    np.testing.assert_allclose(one, two, rtol=1e-6)
    assert session.run(fed, {x: normal(5, 3), training: False}).shape == (5, 3)


def test_a_call_without_a_module_is_a_subclass_own():
    """A class made by `exec` with bare globals."""
    made = {"Base": BatchNormalization}
    text = """
class Doubled(Base):
    def call(self, x, training=None):
        return 2 * Base.call(self, x, training=True)
"""
    exec(text, {"Base": BatchNormalization}, made)
    assert made["Doubled"].call.__module__ is None
    with tf.Graph().as_default(), v1.Session() as session:
        y = made["Doubled"]()(tf.constant([[1.0], [3.0]]))
        session.run(v1.global_variables_initializer())
        np.testing.assert_allclose(session.run(y), [[-2.0], [2.0]], atol=2e-3)
