"""A warning for programs whose Keras is Keras 2: this layer does not belong to it."""

import os
from importlib.util import find_spec

from batchnorm.errors import format_error, warn_user

__all__ = ["warn_beside_keras_2"]

_told: list[bool] = []


def warn_beside_keras_2() -> None:
    """Warn once if `tf.keras` is Keras 2, whose models neither take a Keras 3 layer nor count its weights."""
    if (
        _told
        or os.environ.get("TF_USE_LEGACY_KERAS") not in ("true", "True", "1")
        or not find_spec("tf_keras")
    ):
        return
    _told.append(True)
    warn_user(
        format_error(
            "batchnorm.keras.layers.BatchNormalization was made while tf.keras is Keras 2 (TF_USE_LEGACY_KERAS)",
            "It is a layer of Keras 3, and models of Keras 2 do not take it",
            "Use batchnorm.compat.v1.layers.BatchNormalization in those, or build the model with `import keras`",
        ),
    )
