"""The v1 layer in Keras 2's models, in a process whose TensorFlow uses Keras 2: prints what it finds as JSON."""

import json
import os
import sys
import warnings

os.environ["TF_USE_LEGACY_KERAS"] = "1"
warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

if "tf1" in sys.argv:
    tf.compat.v1.disable_v2_behavior()

from batchnorm.compat.v1.layers import BatchNormalization  # noqa: E402

keras = tf.keras
X = (np.random.default_rng(0).standard_normal((32, 3)) * 2 + 1).astype("float32")
ARGUMENTS = {"momentum": 0.5, "gamma_regularizer": lambda w: 0.1 * tf.reduce_sum(w)}


def last(variables):
    return [variable.name.split("/")[-1] for variable in variables]


def trained(model):
    """One step of SGD on the mean square, and what the model then shows."""
    model.compile(keras.optimizers.legacy.SGD(0.1), "mse")
    loss = model.evaluate(X, X * 0, verbose=0)
    history = model.fit(X, X * 0, batch_size=32, epochs=1, verbose=0)
    return {
        "weights": last(model.weights),
        "trainable": len(model.trainable_weights),
        "n_losses": len(model.losses),
        "before": loss,
        "fitted": history.history["loss"][0],
        "values": [np.asarray(value).tolist() for value in model.get_weights()],
        "predicted": model.predict(X, verbose=0)[:2].tolist(),
    }


def functional(make):
    inputs = keras.Input([3])
    return keras.Model(inputs, make(**ARGUMENTS)(inputs))


def sequential(make):
    return keras.Sequential([keras.Input([3]), make(**ARGUMENTS)])


def deferred(make):
    return keras.Sequential([make(**ARGUMENTS)])


def owner(make):
    class Owner(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = make(**ARGUMENTS)

        def call(self, inputs, training=None):
            return self.norm(inputs, training=training)

    inputs = keras.Input([3])
    return keras.Model(inputs, Owner()(inputs))


def subclassed(make):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = make(**ARGUMENTS)

        def call(self, inputs, training=None):
            return self.norm(inputs, training=training)

    return Model()


def layered(make):
    """A layer that contains one, called directly."""

    class Owner(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = make(activity_regularizer=lambda y: tf.reduce_sum(y * y), **ARGUMENTS)

        def call(self, inputs, training=None):
            return self.norm(inputs, training=training)

    layer = Owner()
    with tf.GradientTape() as tape:
        y = layer(tf.constant(X), training=True)
        loss = tf.reduce_sum(y) + tf.add_n(layer.losses)
    return {
        "losses": sorted(float(value) for value in layer.losses),
        "gradient": [float(tf.reduce_sum(value)) for value in tape.gradient(loss, layer.trainable_weights)],
        "weights": last(layer.weights),
        "mean": layer.norm.moving_mean.numpy().tolist(),
    }


def graph_owner(make):
    """In a TensorFlow 1 graph: losses and updates of a layer that contains one."""

    class Owner(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = make(**ARGUMENTS)

        def call(self, inputs, training=None):
            return self.norm(inputs, training=training)

    with tf.Graph().as_default():
        layer = Owner()
        layer(tf.compat.v1.placeholder(tf.float32, [None, 3]), training=True)
        return {"updates": len(layer.updates), "losses": len(layer.losses), "weights": len(layer.weights)}


def main():
    make = BatchNormalization
    if "keras" in sys.argv:  # the reference
        make = keras.layers.BatchNormalization
    found = {"graph_owner": graph_owner(make)}
    for build in (functional, sequential, owner, *(() if "tf1" in sys.argv else (deferred, subclassed))):
        keras.backend.clear_session()
        found[build.__name__] = trained(build(make))
    if "tf1" not in sys.argv:
        found["layered"] = layered(make)
    print(json.dumps(found, default=float))


main()
