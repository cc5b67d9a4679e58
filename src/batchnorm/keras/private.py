"""Private names of Keras 3, each with what depends on it; tests/unit/test_private.py touches each.

If an import is gone, a stand-in takes its place, as the comments say; if an attribute is gone, the first call that
needs it raises.
"""

import contextlib
from collections.abc import Generator
from typing import Any

__all__ = [
    "held",
    "in_stateless_scope",
    "inner_layers",
    "is_functional",
    "loads_whole_h5",
    "mask_of",
    "open_for_changes",
    "take_up",
    "track_layer",
]

try:
    from keras.src.backend.common.stateless_scope import in_stateless_scope
except ImportError:  # every step on PyTorch then goes the general way

    def in_stateless_scope() -> bool:
        """Whether assignments are collected: on PyTorch, whether kernels may write the moving statistics."""
        return True


try:
    from keras.src.backend.common.global_state import get_global_attribute
except ImportError:  # no file is then recognized as a whole model in .h5

    def get_global_attribute(name: str, default: Any = None) -> Any:
        """What Keras remembers of what it is doing."""
        del name
        return default


try:
    from keras.src.models.functional import Functional
except ImportError:  # `convert` then takes sequential models only
    Functional = None


def loads_whole_h5() -> bool:
    """Whether Keras is loading a whole model from .h5, whose configurations lack lists of axes."""
    return bool(get_global_attribute("use_legacy_config", False))


def is_functional(model: Any) -> bool:
    """Whether a model is nothing but its inputs and outputs, without a class of its own."""
    return type(model) is Functional


def inner_layers(layer: Any) -> list[Any]:
    """All layers inside another, in which `convert` cannot exchange any."""
    return list(layer._flatten_layers(include_self=False))


def mask_of(tensor: Any) -> Any:
    """The mask that goes with a tensor of a functional model: an addition joins those of both."""
    return getattr(tensor, "_keras_mask", None)


def held(variable: Any) -> Any:
    """TensorFlow's variable inside one of Keras, None before it is made: checkpoints of decorated objects hold it."""
    return variable._value


def track_layer(layer: Any, inner: Any) -> None:
    """Count a layer among another's, as an attribute of it would: weights, losses and files of decorated layers."""
    layer._tracker.track(inner)


@contextlib.contextmanager
def open_for_changes(layer: Any) -> Generator[None]:
    """Let a built layer take up variables and layers: TensorFlow 1 code makes them when it runs."""
    tracker = layer._tracker
    was_locked = tracker.locked
    tracker.unlock()
    try:
        yield
    finally:
        if was_locked:
            tracker.lock()


def take_up(layer: Any, variable: Any) -> None:
    """Add a variable that exists to the layer's weights, which stay in alphabetical order."""
    layer._track_variable(variable)
    for variables in (layer._trainable_variables, layer._non_trainable_variables):
        variables.sort(key=lambda known: known.path)
