"""The module's `activation`: which of JAX's functions the core computes in the same pass."""

from collections.abc import Callable
from typing import Any

import jax

from batchnorm.activation import ACTIVATIONS, Activation, read_activation
from batchnorm.errors import format_error

__all__ = ["activate", "fusable", "read"]

Array = Any

# JAX's other names for those of `batchnorm.Activation`'s table.
ALIASES = {"swish": "silu", "hard_silu": "hard_swish"}
# What the functions compute by their own defaults. Those of flax.nnx are the same objects.
_RECORDS: dict[Any, Activation] = {
    jax.nn.identity: Activation("identity"),
    jax.nn.relu: Activation("relu"),
    jax.nn.relu6: Activation("relu6"),
    jax.nn.leaky_relu: Activation("leaky_relu", 0.01),
    jax.nn.hard_tanh: Activation("hard_tanh"),
    jax.nn.hard_swish: Activation("hard_swish"),
    jax.nn.silu: Activation("silu"),
    jax.nn.gelu: Activation("gelu_tanh"),
    jax.nn.sigmoid: Activation("sigmoid"),
    jax.nn.tanh: Activation("tanh"),
}


def read(value: Any) -> Activation | Callable[[Array], Array] | None:
    """The argument as the module keeps it: a record for a name, and everything else as it is.

    Raises:
        ValueError: there is no activation of that name.
        TypeError: it is neither a name nor a record nor can it be called.
    """
    if isinstance(value, str):
        name = ALIASES.get(value, value)
        if name not in ACTIVATIONS:
            function = (
                f"jax.nn.{name}" if callable(getattr(jax.nn, name, None)) else "a function such as jax.nn.elu"
            )
            raise ValueError(
                format_error(
                    f"activation={value!r} was asked for",
                    "There is no such activation by name",
                    f"Pass one of {', '.join(map(repr, (*ACTIVATIONS, *ALIASES)))}, or {function} itself",
                )
            )
        return read_activation("activation=%r", name)
    if value is not None and not callable(value) and not isinstance(value, Activation):
        raise TypeError(
            format_error(
                f"activation={value!r} was asked for",
                "It is applied to what the normalization returns",
                "Pass a name such as 'relu', a function such as jax.nn.relu, or a batchnorm.Activation",
            )
        )
    return value


def fusable(value: Any) -> Activation | None:
    """The record of an activation that the core computes itself; None for any other, and for None."""
    if isinstance(value, Activation):
        return value
    try:
        return _RECORDS.get(value)
    except TypeError:  # it has no hash
        return None


def activate(value: Any, y: Array) -> Array:
    """What is left to do with a step's result: nothing, or an activation that the core does not know."""
    return y if value is None or fusable(value) is not None else value(y)
