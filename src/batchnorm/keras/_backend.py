"""What the layer needs from the framework that Keras runs on, by the name of Keras' backend."""

import importlib
from typing import Any

import keras

from batchnorm.errors import refusal

__all__ = ["framework"]

BACKENDS = ("tensorflow", "jax", "torch")


def framework() -> Any:
    """The module for the current backend: its `engine`, and the functions that Keras has no operation for."""
    name = keras.backend.backend()
    if name in BACKENDS:
        return importlib.import_module(f"batchnorm.keras._{name}")
    raise RuntimeError(
        refusal(
            f"batchnorm.keras was asked to run on Keras' {name!r} backend",
            f"Its engines are those for {', '.join(BACKENDS)}",
            "Set the environment variable KERAS_BACKEND to one of them before Keras is imported",
        )
    )
