"""Keras 3 layers and models with a decorated method, and data to fit them to."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from batchnorm.compat.v1.keras.utils import get_or_create_layer, track_tf1_style_variables
from batchnorm.compat.v1.layers import batch_normalization

v1 = tf.compat.v1
RANDOM = np.random.default_rng(0)
X, TARGET = RANDOM.normal(size=(32, 5)).astype("float32"), RANDOM.normal(size=(32, 3)).astype("float32")
WEIGHTS = ["net/batch_normalization/beta", "net/batch_normalization/gamma", "net/w"]
STATISTICS = ["net/batch_normalization/moving_mean", "net/batch_normalization/moving_variance"]


def penalty(w):
    return 0.01 * tf.reduce_sum(w * w)


def forward(x, training):
    with v1.variable_scope("net", regularizer=penalty):
        w = v1.get_variable("w", [x.shape[-1], 3], constraint=lambda w: tf.clip_by_value(w, -0.5, 0.5))
        return batch_normalization(x @ w, training=training, momentum=0.5, gamma_regularizer=penalty)


@keras.saving.register_keras_serializable("tracking")
class Net(keras.layers.Layer):
    @track_tf1_style_variables
    def call(self, x, training=False):
        return forward(x, training)


@keras.saving.register_keras_serializable("tracking")
class NetModel(keras.Model):
    @track_tf1_style_variables
    def call(self, x, training=False):
        return forward(x, training)


@keras.saving.register_keras_serializable("tracking")
class Nested(keras.layers.Layer):
    """A decorated layer that makes a model of its own Keras inside."""

    @track_tf1_style_variables
    def call(self, x, training=False):
        def make():
            first = keras.layers.Dense(
                4, kernel_regularizer="l2", bias_regularizer="l2", bias_initializer="ones"
            )
            return keras.Sequential([keras.Input((3,)), first, keras.layers.Dense(3)])

        with v1.variable_scope("outer"):
            return get_or_create_layer("inner", make)(forward(x, training))


@keras.saving.register_keras_serializable("tracking")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.net = Nested()

    def call(self, x, training=False):
        return self.net(x, training=training)


def functional(layer):
    inputs = keras.Input((5,))
    return keras.Model(inputs, layer(inputs))


MODELS = {
    "functional": lambda: functional(Net()),
    "sequential": lambda: keras.Sequential([Net()]),
    "decorated model": NetModel,
    "nested": lambda: functional(Nested()),
    "subclassed": Subclassed,
}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def paths(variables):
    return [v.path for v in variables]


def fit(model, epochs=1):
    return model.fit(X, TARGET, batch_size=8, epochs=epochs, shuffle=False, verbose=0).history["loss"]


def train(make):
    keras.utils.set_random_seed(1)
    model = make()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.history_of_loss = fit(model, epochs=3)
    return model
