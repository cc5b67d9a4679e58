"""A subclass with its own `_moments` does what the same subclass of Keras 3's own layer does."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from batchnorm.keras.layers import BatchNormalization

pytestmark = pytest.mark.needs("keras", "tensorflow", "tf_keras")


def halved(base):
    class Halved(base):
        def _moments(self, inputs, mask):
            mean, variance = super()._moments(inputs, mask)
            return 0.5 * mean, variance + 0.25 * mean * mean

    return Halved


def unbiased(base):
    class Unbiased(base):
        def _moments(self, inputs, mask):
            mean, variance = keras.ops.moments(inputs, self._reduction_axes)
            count = inputs.shape[0]
            return mean, variance * (count / (count - 1))

    return Unbiased


def inputs(*shape):
    return (np.random.default_rng(0).standard_normal(shape) * 2 + 1).astype("float32")


@pytest.mark.parametrize("mask", [None, np.arange(8) % 3 > 0])
@pytest.mark.parametrize("options", [{}, {"renorm": True}, {"dtype": "mixed_float16"}, {"scale": False}])
@pytest.mark.parametrize("subclass", [halved, unbiased])
def test_same_as_a_subclass_of_keras_own_layer(subclass, options, mask):
    x, results = tf.constant(inputs(8, 3)), []
    for base in (BatchNormalization, keras.layers.BatchNormalization):
        layer = subclass(base)(momentum=0.5, **options)
        for _ in range(2):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True, mask=None if mask is None else tf.constant(mask))
                loss = tf.reduce_sum(tf.sin(tf.cast(y, "float32")) * tf.cos(x))
        gradients = tape.gradient(loss, [x, *(weight.value for weight in layer.trainable_weights)])
        state = [weight.numpy() for weight in layer.non_trainable_weights]
        results.append([tf.cast(y, "float32").numpy(), *(value.numpy() for value in gradients), *state])
    close = 5e-3 if "dtype" in options else 1e-5
    for ours, own in zip(*results, strict=True):
        np.testing.assert_allclose(ours, own, rtol=close, atol=close)


def test_moments_of_several_axes_and_refusal_of_options_that_they_do_not_receive():
    x = inputs(4, 2, 5, 3)
    layer = halved(BatchNormalization)(axis=[1, 3], momentum=0.0)
    y = layer(x, training=True)
    mean, variance = x.mean((0, 2), keepdims=True), x.var((0, 2), keepdims=True)
    expected = (x - 0.5 * mean) / np.sqrt(variance + 0.25 * mean**2 + 1e-3)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"sample_weight was used with Halved, which overrides _moments"):
        layer(x, training=True, sample_weight=np.ones(4, "float32"))
    with pytest.raises(ValueError, match=r"virtual_batch_size was used with Halved"):
        halved(BatchNormalization)(virtual_batch_size=2)(inputs(4, 3), training=True)
