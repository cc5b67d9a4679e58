"""Copies of layers, and what their variables hold."""

import inspect
import warnings
from typing import Any

import keras

from batchnorm.errors import format_error

__all__ = ["carry", "configuration", "copied"]


def configuration(layer: Any) -> dict[str, Any]:
    """What `get_config` returns, without warnings about functions that could not be loaded from a file."""
    with warnings.catch_warnings():
        for message in ("The object being serialized includes a `lambda`", "A layer with adjustment="):
            warnings.filterwarnings("ignore", message)
        return layer.get_config()


def copied(layer: Any, **changes: Any) -> Any:
    """A layer of the same class and configuration, with these changes of it.

    Raises:
        ValueError: its configuration does not bring it back.
    """
    own = {each.__name__: each for each in vars(layer).values() if inspect.isfunction(each)}
    # The function comes from the program itself.
    trusted = {"safe_mode": False} if isinstance(layer, keras.layers.Lambda) else {}
    try:
        with keras.saving.custom_object_scope(own):
            return type(layer).from_config(configuration(layer) | changes, **trusted)
    except Exception as error:
        raise ValueError(
            format_error(
                f"The layer {layer.name!r} ({type(layer).__name__}) was to be copied",
                f"Its configuration does not bring it back: {type(error).__name__}, {error}",
                "Give its class a get_config that from_config understands, and call convert in a "
                "keras.saving.custom_object_scope with what the configuration names",
            )
        ) from error


def carry(source: Any, target: Any) -> None:
    """Give a layer's variables the values that another's hold: those of a batch norm by name, else in order."""
    for one, other in _pairs(source, target):
        # JAX's arrays are not written to, but a training step may give them away.
        value: Any = keras.ops.copy(one.value)
        other.assign(value if one.shape == other.shape else keras.ops.reshape(value, other.shape))


def _pairs(source: Any, target: Any) -> list[tuple[Any, Any]]:
    if type(source) is type(target):
        return list(zip(source.variables, target.variables, strict=True))
    given = {variable.name: variable for variable in source.variables}
    return [(given[variable.name], variable) for variable in target.variables]
