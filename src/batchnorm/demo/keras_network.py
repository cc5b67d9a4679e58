"""The network in Keras, on any backend: through Keras' own layer, ours, and the pure function."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
from numpy.typing import NDArray

from batchnorm import Options, batch_norm, init
from batchnorm.demo.network import (
    CLASSES,
    CONVOLUTIONS,
    DECAY,
    EPSILON,
    GHOST_SIZE,
    LEARNING_RATE,
    Build,
    Weights,
    norm_name,
)
from batchnorm.demo.schedule import renorm_bounds
from batchnorm.keras.layers import BatchNormalization

__all__ = ["APIS", "METHODS", "KerasNetwork", "by_layer"]

Tensor = Any
Bounds = Mapping[str, Any]
# Makes the normalization with a name; renorm's bounds are variables.
Normalize = Callable[[str, Bounds], keras.layers.Layer]


class KerasNetwork:
    """The network with the normalization after each convolution, or with none; the convolutions then have offsets."""

    def __init__(self, weights: Weights, normalize: Normalize | None) -> None:
        self._bounds: dict[str, Any] = {
            name: keras.Variable(value, trainable=False, name=name)
            for name, value in renorm_bounds(1.0).items()
        }
        model = make_model(normalize, self._bounds)
        for name in CONVOLUTIONS:
            model.get_layer(name).kernel.assign(weights[name])
        model.get_layer("dense").set_weights([weights["dense/kernel"], weights["dense/offset"]])
        model.compile(
            keras.optimizers.SGD(LEARNING_RATE),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            # On JAX the step would run operation by operation without it.
            jit_compile=keras.backend.backend() == "jax",
        )
        self._model = model

    def train(self, images: NDArray[Any], labels: NDArray[Any], given: Mapping[str, float]) -> float:
        for name, variable in self._bounds.items():
            if name in given:
                variable.assign(given[name])
        self._model.optimizer.learning_rate = given.get("rate", LEARNING_RATE)
        # Keras reports the mean loss since the last reset.
        self._model.reset_metrics()
        return float(self._model.train_on_batch(images, labels))

    def logits(self, images: NDArray[Any], training: bool) -> NDArray[Any]:
        model = self._model
        values = ([v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables))
        logits, _ = model.stateless_call(*values, images, training=training)
        return as_numpy(logits)

    def statistics(self) -> dict[str, NDArray[Any]]:
        return {
            f"{layer.name}/{variable.name}": as_numpy(variable)
            for layer in self._model.layers
            for variable in layer.non_trainable_variables
        }


def as_numpy(value: Tensor) -> NDArray[Any]:
    """A tensor or a variable of the backend as a NumPy array."""
    array: Any = keras.ops.convert_to_numpy(value)
    return array


def make_model(normalize: Normalize | None, bounds: Bounds) -> Any:
    """The functional model. Its weights still have to be set."""
    x = images = keras.Input((8, 8, 1))
    for name, (side, channels, stride, padding) in CONVOLUTIONS.items():
        options: dict[str, Any] = {"use_bias": normalize is None, "kernel_initializer": "zeros", "name": name}
        x = keras.layers.Conv2D(channels, side, stride, padding.lower(), **options)(x)
        x = keras.ops.elu(x if normalize is None else normalize(norm_name(name), bounds)(x))
    dense = keras.layers.Dense(CLASSES, kernel_initializer="zeros", name="dense")
    return keras.Model(images, dense(keras.layers.Flatten()(x)))


class Functional(keras.layers.Layer):
    """The pure function, with its parameters and its state."""

    def build(self, input_shape: Any) -> None:
        self.options = Options(axes=(-1,), decay=DECAY, epsilon=EPSILON)
        self.records: list[dict[str, Any]] = [
            {
                name: self.add_weight(
                    name=name,
                    shape=value.shape,
                    initializer=keras.initializers.Constant(value),  # pyright: ignore[reportArgumentType]
                    trainable=trained,
                )
                for name, value in record.items()
            }
            for record, trained in zip(init(self.options, (1, *input_shape[1:])), (True, False), strict=True)
        ]

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        params, state = (
            {name: variable.value for name, variable in record.items()} for record in self.records
        )
        y, state = batch_norm(x, params, state, self.options, training=training)
        if training:
            for name, value in state.items():
                self.records[1][name].assign(value)
        return y


def by_layer(
    layer: Callable[..., keras.layers.Layer], name: str, bounds: Bounds, **options: Any
) -> keras.layers.Layer:
    """A layer with Keras' arguments."""
    del bounds
    return layer(momentum=DECAY, epsilon=EPSILON, name=name, **options)


def renormalize(name: str, bounds: Bounds) -> keras.layers.Layer:
    """Batch renormalization by bounds that are read at every step."""
    options = {"renorm_momentum": DECAY, "renorm_clipping": dict(bounds)}
    return by_layer(BatchNormalization, name, bounds, renorm=True, **options)


ours = partial(by_layer, BatchNormalization)
APIS: dict[str, Build] = {
    "keras.layers": partial(KerasNetwork, normalize=partial(by_layer, keras.layers.BatchNormalization)),
    "batchnorm.keras": partial(KerasNetwork, normalize=ours),
    "batch_norm": partial(KerasNetwork, normalize=lambda name, _: Functional(name=name)),
}
METHODS: dict[str, Build] = {
    "plain": partial(KerasNetwork, normalize=ours),
    "renorm": partial(KerasNetwork, normalize=renormalize),
    "ghost": partial(KerasNetwork, normalize=partial(ours, virtual_batch_size=GHOST_SIZE)),
    "none": partial(KerasNetwork, normalize=None),
}
