"""The layer's `activation`: which of Keras' the core computes in the same pass, and how a configuration holds one."""

from typing import Any

import keras

from batchnorm.activation import ACTIVATIONS, Activation
from batchnorm.errors import format_error
from batchnorm.keras._copies import copied

__all__ = ["activate", "deserialize", "fusable", "layer_of", "read", "serialize"]

Tensor = Any


@keras.saving.register_keras_serializable(package="batchnorm")
def gelu_tanh(x: Tensor) -> Tensor:
    """The approximation of gelu, which has no name of its own in Keras."""
    return keras.ops.gelu(x, approximate=True)


# What Keras' functions compute by their defaults: `keras.activations.gelu` is exact, and `keras.ops.gelu` is not.
_OWN: dict[Any, Activation] = {
    keras.activations.linear: Activation("identity"),
    keras.activations.relu: Activation("relu"),
    keras.activations.relu6: Activation("relu6"),
    keras.activations.leaky_relu: Activation("leaky_relu", 0.2),
    keras.activations.hard_tanh: Activation("hard_tanh"),
    keras.activations.hard_silu: Activation("hard_swish"),
    keras.activations.silu: Activation("silu"),
    keras.activations.gelu: Activation("gelu"),
    keras.activations.sigmoid: Activation("sigmoid"),
    keras.activations.tanh: Activation("tanh"),
}
# Keras' function for each record, which is what the layer keeps: programs look for `keras.activations.relu`.
_FUNCTIONS = {record: function for function, record in _OWN.items()}
_RECORDS = _OWN | {
    keras.ops.relu: Activation("relu"),
    keras.ops.relu6: Activation("relu6"),
    keras.ops.leaky_relu: Activation("leaky_relu", 0.2),
    keras.ops.hard_tanh: Activation("hard_tanh"),
    keras.ops.hard_silu: Activation("hard_swish"),
    keras.ops.hard_swish: Activation("hard_swish"),
    keras.ops.silu: Activation("silu"),
    keras.ops.swish: Activation("silu"),
    keras.ops.gelu: Activation("gelu_tanh"),
    gelu_tanh: Activation("gelu_tanh"),
    keras.ops.sigmoid: Activation("sigmoid"),
    keras.ops.tanh: Activation("tanh"),
}


def read(value: Any) -> Any:
    """The argument as the layer keeps it: Keras' function, a record if Keras has none that does the same, or None.

    Raises:
        ValueError: Keras knows no activation of that name.
        TypeError: it is neither a name nor a record nor can it be called.
    """
    if isinstance(value, str):
        try:
            value = keras.activations.get(value)
        except ValueError:
            record = f", or batchnorm.Activation({value!r})" if value in ACTIVATIONS else ""
            raise ValueError(
                format_error(
                    f"activation={value!r} was asked for",
                    "Keras has no activation of that name",
                    f"Pass a name that keras.activations.get takes, such as 'relu'{record or ', or a function'}",
                )
            ) from None
    if type(value) is keras.layers.Activation:
        value = value.activation
    record = fusable(value)
    if record is not None:
        return _FUNCTIONS.get(record, record)
    if value is not None and not callable(value):
        raise TypeError(
            format_error(
                f"activation={value!r} was asked for",
                "It is applied to what the normalization returns",
                "Pass the name of a Keras activation, a function, or a batchnorm.Activation",
            )
        )
    return value


def fusable(value: Any) -> Activation | None:
    """The record of an activation that the core computes itself; None for any other, and for None.

    Args:
        value: a function, a record, or one of Keras' activation layers.
    """
    if isinstance(value, Activation):
        return value
    kind: Any = type(value)
    if kind is keras.layers.Activation:
        value = value.activation
    elif kind is keras.layers.LeakyReLU:
        return Activation("leaky_relu", float(value.negative_slope))
    elif kind is keras.layers.ReLU:
        return _of_relu(value.max_value, value.negative_slope, value.threshold)
    try:
        return _RECORDS.get(value)
    except TypeError:  # it has no hash
        return None


def activate(value: Any, y: Tensor) -> Tensor:
    """What is left to do with a step's result: nothing, or an activation that the core does not know."""
    return y if value is None or fusable(value) is not None else value(y)


def layer_of(value: Any, name: str, dtype: Any) -> Any:
    """A stock layer that computes the activation alone; one that is a layer itself is copied without its weights."""
    record = fusable(value)
    if record is None:
        is_layer = isinstance(value, keras.layers.Layer)
        return (
            copied(value, name=name) if is_layer else keras.layers.Activation(value, name=name, dtype=dtype)
        )
    if record.name == "leaky_relu":
        return keras.layers.LeakyReLU(negative_slope=record.slope or 0.0, name=name, dtype=dtype)
    if record.name in ("relu", "relu6"):
        most = 6.0 if record.name == "relu6" else None
        return keras.layers.ReLU(max_value=most, name=name, dtype=dtype)
    function = _FUNCTIONS.get(record, gelu_tanh)
    return keras.layers.Activation(function, name=name, dtype=dtype)


def serialize(value: Any) -> Any:
    """What a configuration holds of an activation: what Keras' own layers write, or a record's fields."""
    if isinstance(value, Activation):
        return {"name": value.name, "slope": value.slope}
    return keras.activations.serialize(value)


def deserialize(value: Any) -> Any:
    """The activation of a configuration."""
    if isinstance(value, dict):
        return Activation(**value) if set(value) == {"name", "slope"} else keras.activations.get(value)  # pyright: ignore[reportUnknownArgumentType]
    return value


def _of_relu(most: float | None, slope: float, threshold: float) -> Activation | None:
    """The record of a `keras.layers.ReLU` with these arguments."""
    if threshold or (most is not None and (slope or most != 6)):
        return None
    if most is not None:
        return Activation("relu6")
    return Activation("leaky_relu", float(slope)) if slope else Activation("relu")
