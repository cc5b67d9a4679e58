"""TensorFlow 1 style variables in TensorFlow 2 objects, as in `tf.compat.v1.keras.utils`.

    class Model(tf.Module):
        @track_tf1_style_variables
        def __call__(self, x, training):
            with tf.compat.v1.variable_scope("net"):
                return batch_normalization(tf.compat.v1.layers.flatten(x), training=training)

Names, values and losses are the originals'; docs/differences.md says what differs, and why.
"""

import sys
import threading
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from batchnorm._engines.tensorflow.private import make_decorator
from batchnorm._tf1.eager import active_tracker
from batchnorm.compat.v1.keras._store import Owner, VariableStore
from batchnorm.errors import format_error

__all__ = ["get_or_create_layer", "regularization_losses", "track_tf1_style_variables"]

ATTRIBUTE = "_tf1_style_var_store"
_making_stores = threading.Lock()


def track_tf1_style_variables(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a method of a tf.Module, Keras layer or model, which then keeps its TensorFlow 1 variables.

    While the method runs, `tf.compat.v1.get_variable` and all layers built on it make each variable once,
    outside of any function, under its full name, and find it again in every later call, in eager code and in
    `tf.function`. The variables belong to the object: its `variables`, checkpoints and saved files have them.
    All decorated methods of an object share them; decorated objects called inside have their own, whose names
    begin with the caller's scope.

    - Scopes behave as under `AUTO_REUSE`, and `reuse=True` requires that the variable exists. Default names
      are counted anew in each call. A `tf.function` goes around the decorated method, not inside it, where
      each of its traces would go on counting.
    - Nothing is added to collections; updates run by themselves.
    - A Keras layer has the regularization losses in `losses`; for others see `regularization_losses`.
    - A Keras 3 layer may also assign layers to attributes while the method runs. Weights are saved by name,
      and loaded into a layer that has been called or that Keras has rebuilt.
    - Setting the object's `trainable` to False hides its weights from optimizers; layers inside still update
      their statistics when called with training=True.

    Returns:
        The decorated method.

    Raises:
        ValueError: on calling the method of any other object, or of a Keras 3 layer on another backend; and
            in its body, for a variable with another shape or dtype than the existing one, one with a
            partitioner, one that is missing under `reuse=True`, or one used in a second graph.

    Examples:
        >>> import tensorflow as tf
        >>> from batchnorm.compat.v1.keras.utils import track_tf1_style_variables
        >>> from batchnorm.compat.v1.layers import batch_normalization
        >>> class Model(tf.Module):
        ...     @track_tf1_style_variables
        ...     def __call__(self, x, training):
        ...         return batch_normalization(x, training=training)
        >>> model = Model()
        >>> y = model(tf.constant([[1.0], [3.0]]), training=True)
        >>> [round(float(value), 2) for value in y[:, 0]], len(model.trainable_variables)
        ([-1.0, 1.0], 2)
    """

    def tracked(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _store(self).scope():
            return method(self, *args, **kwargs)

    return make_decorator(method, tracked)


def get_or_create_layer(name: str, create_layer_method: Callable[[], Any]) -> Any:
    """A nested Keras layer or model of the object whose decorated method is running, made by the first call.

    Its variables are the object's too, and so are its losses: one by one if both are of Keras 3,
    otherwise as one sum. In a graph outside of a decorated method, every call makes a new layer.

    Args:
        name: of the layer, within the current variable scope.
        create_layer_method: makes the layer; a function without arguments.

    Raises:
        ValueError: in eager code or a `tf.function`, outside of a decorated method.

    Examples:
        >>> import keras
        >>> import tensorflow as tf
        >>> from batchnorm.compat.v1.keras.utils import get_or_create_layer, track_tf1_style_variables
        >>> class Model(tf.Module):
        ...     @track_tf1_style_variables
        ...     def __call__(self, x):
        ...         return get_or_create_layer("dense", lambda: keras.layers.Dense(2))(x)
        >>> model = Model()
        >>> model(model(tf.ones([4, 2]))).shape, len(model.variables)
        (TensorShape([4, 2]), 2)
    """
    tracker: Any = active_tracker()
    if tracker is not None:
        return tracker.get_or_create_layer(
            f"{tf.compat.v1.get_variable_scope().name}/{name}", create_layer_method
        )
    if not tf.compat.v1.executing_eagerly_outside_functions():
        return create_layer_method()
    raise ValueError(
        format_error(
            f"get_or_create_layer({name!r}) was called eagerly",
            "Outside of a decorated method no object keeps the layer for the next call",
            "Decorate the calling method with batchnorm.compat.v1.keras.utils.track_tf1_style_variables",
        )
    )


def regularization_losses(tracked: Any) -> list[Any]:
    """The regularization losses of an object with decorated methods, as they are now.

    One for each regularized variable, and the sum for each layer of `get_or_create_layer`, unless both are of
    Keras 3. A Keras layer has these in `losses`, and those of its nested layers.

    Examples:
        >>> import tensorflow as tf
        >>> from batchnorm.compat.v1.keras.utils import regularization_losses, track_tf1_style_variables
        >>> class Model(tf.Module):
        ...     @track_tf1_style_variables
        ...     def __call__(self):
        ...         return tf.compat.v1.get_variable("w", initializer=3.0, regularizer=tf.square)
        >>> model = Model()
        >>> w = model()
        >>> [float(loss) for loss in regularization_losses(model)]
        [9.0]
    """
    store = getattr(tracked, ATTRIBUTE, None)
    return [] if store is None else store.get_regularization_losses()


def _store(decorated: Any) -> VariableStore:
    """The object's store, made on first use."""
    with _making_stores:
        store = getattr(decorated, ATTRIBUTE, None)
        if store is None:
            store = _new_store(decorated)
            setattr(decorated, ATTRIBUTE, store)
    if isinstance(store, VariableStore):
        return store
    raise ValueError(
        format_error(
            f"A method of {decorated!r} was decorated with batchnorm's track_tf1_style_variables",
            f"The object already has the store of another decorator, a {type(store).__name__}",
            "Use the same decorator for all methods of an object",
        )
    )


def _new_store(decorated: Any) -> VariableStore:
    # A decorated object of either Keras means that its package is imported, so none is imported here.
    tf_keras, keras = (sys.modules.get(name) for name in ("tf_keras", "keras"))
    if tf_keras is not None and isinstance(decorated, tf_keras.layers.Layer):
        return VariableStore(Owner(added_loss=decorated.add_loss))
    if isinstance(decorated, tf.Module):
        return VariableStore(Owner())
    if keras is not None and isinstance(decorated, keras.layers.Layer):
        from batchnorm.compat.v1.keras._keras3 import keras3_store

        return keras3_store(decorated)
    raise ValueError(
        format_error(
            f"A function decorated with track_tf1_style_variables was called with {decorated!r} first",
            "Nothing there can keep variables: it does not extend tf.Module, a Keras layer or a Keras model",
            "Decorate a method of a class that does, and takes self as its first argument",
        )
    )
