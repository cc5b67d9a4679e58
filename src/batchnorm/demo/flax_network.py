"""The network in JAX with Flax: through flax.nnx's own layer, ours, and the pure function."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from numpy.typing import NDArray

from batchnorm.demo.flax_norms import Bounds, Functional, by_layer, renormalize
from batchnorm.demo.network import (
    CLASSES,
    CONVOLUTIONS,
    GHOST_SIZE,
    LEARNING_RATE,
    Build,
    Weights,
    norm_name,
)
from batchnorm.flax import BatchNorm

__all__ = ["APIS", "METHODS"]

Array = Any
STATISTICS = {"moving_mean": "mean", "moving_variance": "var"}


# Makes the normalization for a number of channels.
Normalize = Callable[[int, nnx.Rngs, Bounds], nnx.Module]


class Model(nnx.Module):
    """The network with the normalization after each convolution, or with none; the convolutions then have offsets."""

    def __init__(self, weights: Weights, normalize: Normalize | None) -> None:
        rngs = nnx.Rngs(0)
        self.bounds = Bounds()
        inputs = 1
        for name, (side, channels, stride, padding) in CONVOLUTIONS.items():
            convolution = nnx.Conv(
                inputs,
                channels,
                (side, side),
                stride,
                padding=padding,
                use_bias=normalize is None,
                kernel_init=start(weights[name]),
                rngs=rngs,
            )
            setattr(self, name, convolution)
            if normalize is not None:
                setattr(self, norm_name(name), normalize(channels, rngs, self.bounds))
            inputs = channels
        self.dense = nnx.Linear(inputs, CLASSES, kernel_init=start(weights["dense/kernel"]), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        for name in CONVOLUTIONS:
            x = getattr(self, name)(x)
            x = nnx.elu(getattr(self, norm_name(name), lambda x: x)(x))
        return self.dense(x.reshape(len(x), -1))


class FlaxNetwork:
    """The model and its training."""

    def __init__(self, weights: Weights, normalize: Normalize | None) -> None:
        self._model = Model(weights, normalize)

    def train(self, images: NDArray[Any], labels: NDArray[Any], given: Mapping[str, float]) -> float:
        bounds = {name: given[name] for name in ("rmin", "rmax", "dmax") if name in given}
        if bounds:
            self._model.bounds.set(bounds)
        self._model.train()
        return float(descend(self._model, images, labels, given.get("rate", LEARNING_RATE)))

    def logits(self, images: NDArray[Any], training: bool) -> NDArray[Any]:
        # The copy's statistics may move.
        model = nnx.clone(self._model)
        model.set_attributes(use_running_average=not training, raise_if_not_found=False)
        return jax.device_get(predict(model, images))

    def statistics(self) -> dict[str, NDArray[Any]]:
        norms = {name: getattr(self._model, name, None) for name in map(norm_name, CONVOLUTIONS)}
        return {
            f"{name}/{ours}": jax.device_get(getattr(norm, theirs)[...])
            for name, norm in norms.items()
            if norm is not None
            for ours, theirs in STATISTICS.items()
        }


@nnx.jit
def predict(model: Model, images: Array) -> Array:
    """The logits."""
    return model(images)


@nnx.jit
def descend(model: Model, images: Array, labels: Array, rate: Array) -> Array:
    """One step of gradient descent; the loss before it."""

    def find_loss(model: Model) -> Array:
        scores = jax.nn.log_softmax(model(images))
        return -jnp.mean(jnp.take_along_axis(scores, labels[:, None], axis=1))

    loss, gradients = nnx.value_and_grad(find_loss)(model)
    parameters = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda value, slope: value - rate * slope, parameters, gradients))
    return loss


def start(value: NDArray[Any]) -> Any:
    """An initializer that returns a known value."""
    return lambda key, shape, dtype: jnp.asarray(value, dtype)


ours = partial(by_layer, BatchNorm)
APIS: dict[str, Build] = {
    "flax.nnx": partial(FlaxNetwork, normalize=partial(by_layer, nnx.BatchNorm)),
    "batchnorm.flax": partial(FlaxNetwork, normalize=ours),
    "batch_norm": partial(FlaxNetwork, normalize=Functional),
}
METHODS: dict[str, Build] = {
    "plain": partial(FlaxNetwork, normalize=ours),
    "renorm": partial(FlaxNetwork, normalize=renormalize),
    "ghost": partial(FlaxNetwork, normalize=partial(ours, virtual_batch_size=GHOST_SIZE)),
    "none": partial(FlaxNetwork, normalize=None),
}
