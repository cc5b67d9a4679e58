"""Whether graph-style variables have a home in eager code: only under a tracker that keeps and shares them."""

import contextlib
from collections.abc import Generator
from contextvars import ContextVar
from typing import Any

import tensorflow as tf

from batchnorm._engines.tensorflow.private import keeps_eager_variables, variable_store
from batchnorm.errors import format_error

__all__ = ["Tracker", "active_tracker", "check_variables_have_a_home", "tracking"]

_tracker: ContextVar["Tracker | None"] = ContextVar("batchnorm_tracker", default=None)


class Tracker:
    """What a layer needs from the tracker that keeps its variables: a place to report a parameter's regularizer."""

    def add_regularizer(self, variable: Any, regularizer: Any) -> None:
        raise NotImplementedError(type(self).__name__)  # each tracker keeps losses in its own way


def active_tracker() -> "Tracker | None":
    """The tracker whose method is running, ours or one that installed itself as TensorFlow's variable store."""
    own = _tracker.get()
    if own is not None:
        return own
    store = variable_store()
    return store if hasattr(store, "add_regularizer") else None


@contextlib.contextmanager
def tracking(tracker: "Tracker") -> Generator[None]:
    """Make `tracker` the active one."""
    token = _tracker.set(tracker)
    try:
        yield
    finally:
        _tracker.reset(token)


def check_variables_have_a_home(what: str) -> None:
    """Raise ValueError in eager code outside a tracker, where each call would make variables of its own."""
    if not tf.compat.v1.executing_eagerly_outside_functions() or active_tracker() is not None:
        return
    if keeps_eager_variables(variable_store()):
        return
    raise ValueError(
        format_error(
            f"{what} was called eagerly",
            "Its variables live in a graph's collections, and in eager code nothing would keep or share them",
            "Decorate the calling method with batchnorm.compat.v1.keras.utils.track_tf1_style_variables, build a "
            "tf.Graph, or use batchnorm.keras.layers.BatchNormalization",
        )
    )
