"""The network through each of the four APIs, with options that make them the same arithmetic."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
import tensorflow as tf
from numpy.typing import NDArray

from batchnorm.compat.v1 import layers as v1_layers
from batchnorm.contrib.layers import batch_norm
from batchnorm.demo.graph import Call, GraphNetwork
from batchnorm.demo.network import CLASSES, CONVOLUTIONS, DECAY, EPSILON, LEARNING_RATE, Network, norm_name
from batchnorm.keras.layers import BatchNormalization

__all__ = ["APIS"]

Tensor = Any
Weights = dict[str, NDArray[Any]]


class KerasNetwork:
    """The network as a Keras 3 model, trained by a loop of its own so that it sees each batch as the graphs do."""

    def __init__(self, weights: Weights) -> None:
        self._model = make_keras_model()
        for name in CONVOLUTIONS:
            self._model.get_layer(name).set_weights([weights[name]])
        self._model.get_layer("dense").set_weights([weights["dense/kernel"], weights["dense/offset"]])
        self._optimizer = keras.optimizers.SGD(LEARNING_RATE)
        self._optimizer.build(self._model.trainable_variables)
        self._step = tf.function(self._descend)

    def train(self, images: NDArray[Any], labels: NDArray[Any], given: Mapping[str, float]) -> float:
        """One step of gradient descent; the batch's loss before it."""
        if "rate" in given:
            self._optimizer.learning_rate = given["rate"]
        return float(self._step(tf.constant(images), tf.constant(labels)))

    def logits(self, images: NDArray[Any], training: bool) -> NDArray[Any]:
        """The logits by the batch's statistics or by the moving ones. With `training` the moving ones move on."""
        return self._model(images, training=training).numpy()

    def statistics(self) -> dict[str, NDArray[Any]]:
        """The moving statistics by layer and variable."""
        layers = [self._model.get_layer(norm_name(name)) for name in CONVOLUTIONS]
        return {
            f"{layer.name}/{v.name}": v.numpy() for layer in layers for v in layer.non_trainable_variables
        }

    def _descend(self, images: Tensor, labels: Tensor) -> Tensor:
        with tf.GradientTape() as tape:
            logits = self._model(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, [v.value for v in self._model.trainable_variables])
        self._optimizer.apply(gradients)
        return loss


def make_keras_model() -> Any:
    """The functional model. The moving variance holds the sample's, as it does in the other three for images."""
    x = images = keras.Input((8, 8, 1))
    for name, (side, channels, stride, padding) in CONVOLUTIONS.items():
        x = keras.layers.Conv2D(channels, side, stride, padding.lower(), use_bias=False, name=name)(x)
        norm = BatchNormalization(momentum=DECAY, epsilon=EPSILON, variance="sample", name=norm_name(name))
        x = keras.ops.elu(norm(x))
    return keras.Model(images, keras.layers.Dense(CLASSES, name="dense")(keras.layers.Flatten()(x)))


def by_class(x: Tensor, name: str, call: Call) -> Tensor:
    """`tf.compat.v1.layers.BatchNormalization`."""
    layer = v1_layers.BatchNormalization(momentum=DECAY, epsilon=EPSILON, name=name)
    return layer(x, training=call["training"])


def by_function(x: Tensor, name: str, call: Call) -> Tensor:
    """`tf.compat.v1.layers.batch_normalization`."""
    training = call["training"]
    return v1_layers.batch_normalization(x, momentum=DECAY, epsilon=EPSILON, training=training, name=name)


def by_contrib(x: Tensor, name: str, call: Call) -> Tensor:
    """`tf.contrib.layers.batch_norm`, which has no gamma unless asked."""
    return batch_norm(x, decay=DECAY, epsilon=EPSILON, scale=True, is_training=call["training"], scope=name)


APIS: dict[str, Callable[[Weights], Network]] = {
    "v1 class": partial(GraphNetwork, normalize=by_class),
    "v1 function": partial(GraphNetwork, normalize=by_function),
    "contrib": partial(GraphNetwork, normalize=by_contrib),
    "Keras": KerasNetwork,
}
