"""The network through each of the four historical APIs, with options that make them the same arithmetic.

The methods of part 2 go through one of them, the v1 function.
"""

from functools import partial
from typing import Any

import tensorflow as tf

from batchnorm.compat.v1 import layers as v1_layers
from batchnorm.contrib.layers import batch_norm
from batchnorm.demo.graph import Call, GraphNetwork
from batchnorm.demo.keras_network import KerasNetwork, by_layer
from batchnorm.demo.network import DECAY, EPSILON, GHOST_SIZE, Build
from batchnorm.demo.schedule import renorm_bounds
from batchnorm.keras.layers import BatchNormalization

__all__ = ["APIS", "METHODS"]

Tensor = Any


def by_class(x: Tensor, name: str, call: Call) -> Tensor:
    """`tf.compat.v1.layers.BatchNormalization`."""
    layer = v1_layers.BatchNormalization(momentum=DECAY, epsilon=EPSILON, name=name)
    return layer(x, training=call["training"])


def by_function(x: Tensor, name: str, call: Call, **options: Any) -> Tensor:
    """`tf.compat.v1.layers.batch_normalization`."""
    training = call["training"]
    return v1_layers.batch_normalization(
        x, momentum=DECAY, epsilon=EPSILON, training=training, name=name, **options
    )


def by_contrib(x: Tensor, name: str, call: Call) -> Tensor:
    """`tf.contrib.layers.batch_norm`, which has no gamma unless asked."""
    return batch_norm(x, decay=DECAY, epsilon=EPSILON, scale=True, is_training=call["training"], scope=name)


def renormalize(x: Tensor, name: str, call: Call) -> Tensor:
    """Batch renormalization with bounds from placeholders."""
    clipping = {bound: call[bound] for bound in ("rmin", "rmax", "dmax")}
    return by_function(x, name, call, renorm=True, renorm_momentum=DECAY, renorm_clipping=clipping)


def only_offset(x: Tensor, name: str, call: Call) -> Tensor:
    """No normalization: the offset alone, as a convolution has by itself."""
    del call
    return x + tf.compat.v1.get_variable(f"{name}/beta", x.shape[-1:], initializer=tf.zeros_initializer())


# The Keras layer's moving variance holds the sample's, as it does in the other three for images.
by_keras = partial(by_layer, BatchNormalization, variance="sample")
# The defaults are what the end of the schedule leaves, for the accuracy by the batch's statistics.
method = partial(GraphNetwork, defaults=renorm_bounds(1.0))

APIS: dict[str, Build] = {
    "v1 class": partial(GraphNetwork, normalize=by_class),
    "v1 function": partial(GraphNetwork, normalize=by_function),
    "contrib": partial(GraphNetwork, normalize=by_contrib),
    "Keras": partial(KerasNetwork, normalize=by_keras),
}
METHODS: dict[str, Build] = {
    "plain": partial(method, normalize=by_function),
    "renorm": partial(method, normalize=renormalize),
    "ghost": partial(method, normalize=partial(by_function, virtual_batch_size=GHOST_SIZE)),
    "none": partial(method, normalize=only_offset),
}
