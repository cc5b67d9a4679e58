"""TensorFlow 1's base class of layers if TensorFlow's Keras is Keras 2: Keras 2's own.

The v1 layer is then a Keras 2 layer: Keras 2's models take it, and count its weights, losses and updates.
"""

from typing import Any

import tensorflow as tf
import tf_keras  # pyright: ignore[reportMissingTypeStubs]
from tf_keras.src.engine import base_layer_utils  # pyright: ignore[reportMissingTypeStubs]

__all__ = ["InputSpec", "Layer"]

_keras: Any = tf_keras
_Legacy: Any = tf.compat.v1.keras.__internal__.legacy.layers.Layer

InputSpec: Any = _keras.layers.InputSpec


class Layer(_Legacy):
    """The base class of `tf.compat.v1.layers`."""

    # Keras 2 keeps its own v1 layers out of its models, because the models cannot tell them whether to train.
    _is_legacy_layer = False

    @property
    def name_scope(self) -> Any:
        """The op scope of the layer, once it has been called."""
        return tf.compat.v1.name_scope(self._name if self._scope is None else self._scope.original_name_scope)

    def _learning_phase(self) -> Any:
        return _keras.backend.learning_phase()

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        in_model = any(hasattr(x, "_keras_history") for x in tf.nest.flatten(inputs))
        if in_model and not args and "training" not in kwargs:
            kwargs["training"] = None  # the model's call decides
        if in_model or base_layer_utils.call_context().in_call:
            self._use_resource_variables = True  # Keras 2's optimizers support no others
        return super().__call__(inputs, *args, **kwargs)
