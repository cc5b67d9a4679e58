"""What the layer needs from the framework that Keras runs on, by the name of Keras' backend."""

import importlib
from typing import Any

import keras

from batchnorm.errors import format_error

__all__ = ["backend"]

BACKENDS = ("tensorflow", "jax", "torch")
# Looking an imported module up takes the import system as long as a small sum, and layers ask several times a step.
_found: dict[str, Any] = {}


def backend() -> Any:
    """The object for the current backend: its `engine`, and the functions that Keras has no operation for."""
    name = keras.backend.backend()
    found = _found.get(name)
    if found is not None:
        return found
    if name in BACKENDS:
        _found[name] = importlib.import_module(f"batchnorm.keras._{name}").backend
        return _found[name]
    raise RuntimeError(
        format_error(
            f"batchnorm.keras was asked to run on Keras' {name!r} backend",
            f"Its engines are those for {', '.join(BACKENDS)}",
            "Set the environment variable KERAS_BACKEND to one of them before Keras is imported",
        )
    )
