"""Initializers, regularizers and constraints, in every form that the originals accepted."""

import sys
from copy import copy
from typing import Any

import tensorflow as tf

from batchnorm._tf1.scope import snake_case
from batchnorm.errors import format_error

__all__ = ["constraint", "for_variables", "initializer", "regularizer", "serialize"]

v1 = tf.compat.v1
# By Keras 2's names: TensorFlow 1's class, and the arguments whose defaults differ between the two.
INITIALIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "zeros": (v1.zeros_initializer, {}),
    "ones": (v1.ones_initializer, {}),
    "constant": (v1.constant_initializer, {"value": 0}),
    "random_normal": (v1.random_normal_initializer, {"stddev": 0.05}),
    "random_uniform": (v1.random_uniform_initializer, {"minval": -0.05, "maxval": 0.05}),
    "truncated_normal": (v1.truncated_normal_initializer, {"stddev": 0.05}),
    "variance_scaling": (v1.variance_scaling_initializer, {}),
    "orthogonal": (v1.orthogonal_initializer, {}),
    "identity": (v1.initializers.identity, {}),
    "glorot_uniform": (v1.glorot_uniform_initializer, {}),
    "glorot_normal": (v1.glorot_normal_initializer, {}),
    "he_normal": (v1.variance_scaling_initializer, {"scale": 2.0}),
    "he_uniform": (v1.variance_scaling_initializer, {"scale": 2.0, "distribution": "uniform"}),
    "lecun_normal": (v1.variance_scaling_initializer, {}),
    "lecun_uniform": (v1.variance_scaling_initializer, {"distribution": "uniform"}),
}
ALIASES = {"zero": "zeros", "one": "ones", "normal": "random_normal", "uniform": "random_uniform"}


def initializer(value: Any) -> Any:
    """A callable (shape, dtype) from a name, a config, a class or a callable; None stays None."""
    if isinstance(value, str) and (made := _known_initializer(value, {})) is not None:
        return made
    if isinstance(value, dict):
        given: Any = value
        made = _known_initializer(given.get("class_name"), given.get("config") or {})
        if made is not None:
            return made
    if isinstance(value, type):
        return value()
    return _resolve("initializers", value)


def _known_initializer(name: Any, config: dict[str, Any]) -> Any:
    """The initializer with this Keras class or function name, in either TensorFlow's version; None for other names."""
    known = snake_case(str(name).removesuffix("V2"))
    known = ALIASES.get(known, known)
    if known not in INITIALIZERS:
        return None
    kind, defaults = INITIALIZERS[known]
    return kind(**(defaults | config))


def regularizer(value: Any) -> Any:
    """A callable on a variable, from a name, a config or a callable; None stays None."""
    return _resolve("regularizers", value)


def constraint(value: Any) -> Any:
    """A callable on a variable, from a name, a config or a callable; None stays None."""
    return _resolve("constraints", value)


def for_variables(value: Any) -> Any:
    """A regularizer or constraint that takes any variable, in any graph.

    Keras 3's take TensorFlow 1 variables only as tensors, and some hold their factors as eager tensors, which
    TensorFlow 1 graphs do not accept.
    """
    keras: Any = sys.modules.get("keras")
    kinds = () if keras is None else (keras.regularizers.Regularizer, keras.constraints.Constraint)
    if not isinstance(value, kinds):
        return value
    return lambda variable: _in_graph(value)(tf.convert_to_tensor(variable))


def serialize(value: Any) -> Any:
    """What `get_config` stores of such an object: its class and config, or its name if it is a function."""
    if value is None or isinstance(value, (str, dict)):
        return value
    if hasattr(value, "get_config"):
        return {"class_name": type(value).__name__, "config": value.get_config()}
    return getattr(value, "__name__", repr(value))


def _in_graph(value: Any) -> Any:
    if tf.compat.v1.executing_eagerly_outside_functions():
        return value
    eager = {
        name: held.numpy()
        for name, held in vars(value).items()
        if tf.is_tensor(held) and hasattr(held, "numpy")
    }
    twin = copy(value)
    # Python numbers fit any dtype.
    vars(twin).update({name: held if held.ndim else held.item() for name, held in eager.items()})
    return twin


def _resolve(kind: str, value: Any) -> Any:
    if value is None or callable(value):
        return value
    if isinstance(value, (str, dict)):
        try:
            import keras
        except ImportError as missing:
            raise ImportError(
                format_error(
                    f"{kind} were given {value!r}",
                    "Names and configs other than common initializers' are looked up in Keras, which is not installed",
                    "Pass a callable, or install batchnorm[keras]",
                )
            ) from missing
        return getattr(keras, kind).get(value)
    raise ValueError(
        format_error(
            f"{kind} were given {value!r}",
            "That is neither a name, nor a config, nor a callable",
            f"Pass one of those, for example an object of tf.compat.v1 or keras.{kind}",
        )
    )
