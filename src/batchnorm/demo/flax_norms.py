"""What normalizes in flax_network.py: layers with Flax's arguments, and the pure function as a module."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from batchnorm import Options, batch_norm, init
from batchnorm.demo.network import DECAY, EPSILON
from batchnorm.demo.schedule import renorm_bounds
from batchnorm.flax import BatchNorm

__all__ = ["Bounds", "Functional", "by_layer", "renormalize"]

Array = Any


class Bounds(nnx.Module):
    """Renorm's bounds as a part of the model, so that a compiled step reads their current values."""

    def __init__(self) -> None:
        self.values = nnx.Variable[Any]({})
        self.set(renorm_bounds(1.0))

    def set(self, bounds: Mapping[str, float]) -> None:
        """Arrays, because a step is compiled again for a number that changes."""
        self.values.set_value({name: jnp.float32(value) for name, value in bounds.items()})

    def __call__(self, step: Array) -> Mapping[str, Array]:
        del step
        return self.values.get_value()


class Functional(nnx.Module):
    """The pure function, with its parameters and its state."""

    def __init__(self, channels: int, rngs: nnx.Rngs, bounds: Bounds) -> None:
        del rngs, bounds
        self.options = Options(axes=(-1,), decay=DECAY, epsilon=EPSILON)
        params, state = init(self.options, (1, channels), like=jnp.zeros(()))
        self.params = nnx.Dict({name: nnx.Param(value) for name, value in params.items()})
        self.state = nnx.Dict({name: nnx.BatchStat(value) for name, value in state.items()})
        self.use_running_average = False

    def __call__(self, x: Array) -> Array:
        params, state = (
            {name: variable[...] for name, variable in record.items()} for record in (self.params, self.state)
        )
        y, state = batch_norm(x, params, state, self.options, training=not self.use_running_average)
        for name, value in state.items():
            self.state[name][...] = value
        return y

    @property
    def mean(self) -> Array:
        return self.state["moving_mean"]

    @property
    def var(self) -> Array:
        return self.state["moving_variance"]


def by_layer(
    layer: Callable[..., nnx.Module], channels: int, rngs: nnx.Rngs, bounds: Bounds, **options: Any
) -> nnx.Module:
    """A layer with flax.nnx.BatchNorm's arguments."""
    del bounds
    return layer(channels, momentum=DECAY, epsilon=EPSILON, rngs=rngs, **options)


def renormalize(channels: int, rngs: nnx.Rngs, bounds: Bounds) -> nnx.Module:
    """Batch renormalization by bounds that are read at every step."""
    options = {"renorm_momentum": DECAY, "renorm_clipping": bounds}
    return by_layer(BatchNorm, channels, rngs, bounds, renorm=True, **options)
