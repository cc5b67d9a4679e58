"""How a Keras 3 layer adopts the variables of its store: through a nested layer that holds them."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

import keras
import tensorflow as tf

from batchnorm.compat.v1.keras._store import Owner, VariableStore
from batchnorm.errors import format_error
from batchnorm.keras.private import held, open_for_changes, take_up, track_layer

__all__ = ["keras3_store"]


class StoredVariable(keras.Variable):
    """Keras' view of a variable that TensorFlow 1 code made; its path is the TensorFlow 1 name.

    Keras builds models in a scope where a variable may be declared but hold no value yet, hence the detour.
    """

    def __init__(self, name: str, variable: Any) -> None:
        self.stored = variable
        super().__init__(
            lambda shape, dtype: tf.convert_to_tensor(variable),
            shape=tuple(variable.shape),
            dtype=variable.dtype.base_dtype.name,
            trainable=variable.trainable,
            autocast=False,
            name=name.rpartition("/")[2],
        )
        self._path = name
        self.constraint = variable.constraint

    def _initialize_with_initializer(self, initializer: Any) -> None:
        del initializer
        self._value = self.stored

    def check_live(self) -> None:
        """Raise ValueError in a stateless call: the values it is given would not be seen."""
        if held(self) is not None and self.value is not self.stored:
            raise ValueError(
                format_error(
                    f"A stateless call used the variable {self._path!r}",
                    "TensorFlow 1 code uses the variable itself, not the values passed to the call",
                    "Call the layer instead",
                )
            )


class StoredWeights(keras.layers.Layer):
    """The store of a Keras 3 layer as Keras sees it: weights by name, losses, nested layers."""

    faces: dict[str, StoredVariable]
    nested: set[str]
    losses_of_store: Callable[..., list[Any]]

    def __init__(self) -> None:
        super().__init__(name="tf1_style_weights")
        self.built = True
        # Plain attributes: Keras would wrap and follow what is in these by itself.
        object.__setattr__(self, "faces", {})
        object.__setattr__(self, "nested", set())

    def found(self, name: str, variable: Any) -> None:
        """Adopt the variable, in alphabetical order, or check that this call may use it."""
        if name in self.faces:
            self.faces[name].check_live()
            return
        face = StoredVariable(name, variable)
        self.faces[name] = face
        take_up(self, face)

    def added_layer(self, name: str, layer: Any) -> bool:
        """Adopt a nested Keras 3 layer like any other; others are left to the store."""
        if not isinstance(layer, keras.layers.Layer):
            return False
        if name in self.nested:
            return True
        self.nested.add(name)
        setattr(self, quote(name, safe=""), layer)
        return True

    def _get_own_losses(self) -> list[Any]:
        return self.losses_of_store(without=self.nested)

    def save_own_variables(self, store: Any) -> None:
        """Save the variables by name."""
        for name, face in self.faces.items():
            store[quote(name, safe="")] = face

    def load_own_variables(self, store: Any) -> None:
        """Load the variables by name.

        Raises:
            ValueError: the file has other variables than the layer.
        """
        saved = {unquote(key): key for key in store.keys()}  # noqa: SIM118  # a file's entry, not a dict
        if set(saved) != set(self.faces):
            raise ValueError(
                format_error(
                    f"Variables {sorted(saved)} were to be loaded",
                    f"The decorated layer has made {sorted(self.faces)}",
                    "Call the layer once as it was called before it was saved, then load",
                )
            )
        for name, key in saved.items():
            self.faces[name].assign(store[key])


def keras3_store(layer: Any) -> VariableStore:
    """A store for a Keras 3 layer, whose weights, losses and files then include it."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            format_error(
                f"A method of {layer!r} that makes TensorFlow variables was called on Keras' "
                f"{keras.backend.backend()!r} backend",
                "Keras trains and saves TensorFlow's variables only on TensorFlow",
                "Set the environment variable KERAS_BACKEND=tensorflow before Keras is imported",
            )
        )
    weights = StoredWeights()
    owner = Owner(lambda: open_for_changes(layer), weights.found, weights.added_layer)
    store = VariableStore(owner)
    weights.losses_of_store = store.get_regularization_losses
    with open_for_changes(layer):
        track_layer(layer, weights)
    # An attribute for Keras' files to find, but not TensorFlow's checkpoints, which have the store itself.
    object.__setattr__(layer, "_tf1_style_weights", weights)
    return store
