"""What the layer needs from the framework that Keras runs on, by the name of Keras' backend."""

from typing import Any

import keras

from batchnorm.errors import refusal

__all__ = ["framework"]


def framework() -> Any:
    """The module for the current backend: its `engine`, and the functions that Keras has no operation for."""
    name = keras.backend.backend()
    if name == "tensorflow":
        from batchnorm.keras import _tensorflow

        return _tensorflow
    raise RuntimeError(
        refusal(
            f"batchnorm.keras was asked to run on Keras' {name!r} backend",
            "Its only engine so far is TensorFlow's",
            "Set the environment variable KERAS_BACKEND=tensorflow before Keras is imported",
        )
    )
