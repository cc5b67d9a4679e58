"""Initializers, regularizers and constraints, in every form that the originals took them."""

from typing import Any

import tensorflow as tf

from batchnorm.errors import refusal

__all__ = ["constraint", "initializer", "regularizer", "serialize"]

INITIALIZERS: dict[str, Any] = {
    "zeros": tf.compat.v1.zeros_initializer,
    "ones": tf.compat.v1.ones_initializer,
    "glorot_uniform": tf.compat.v1.glorot_uniform_initializer,
    "glorot_normal": tf.compat.v1.glorot_normal_initializer,
    "random_normal": tf.compat.v1.random_normal_initializer,
    "random_uniform": tf.compat.v1.random_uniform_initializer,
    "truncated_normal": tf.compat.v1.truncated_normal_initializer,
}


def initializer(value: Any) -> Any:
    """A callable (shape, dtype) from a name, a config, a class or a callable; None stays None."""
    if isinstance(value, str) and value.lower() in INITIALIZERS:
        return INITIALIZERS[value.lower()]()
    if isinstance(value, dict) and value.get("class_name") in _V1_INITIALIZERS:  # pyright: ignore[reportUnknownMemberType]
        return _V1_INITIALIZERS[value["class_name"]].from_config(value["config"])
    if isinstance(value, type):
        return value()
    return _resolve("initializers", value)


def regularizer(value: Any) -> Any:
    """A callable on a variable, from a name, a config or a callable; None stays None."""
    return _resolve("regularizers", value)


def constraint(value: Any) -> Any:
    """A callable on a variable, from a name, a config or a callable; None stays None."""
    return _resolve("constraints", value)


def serialize(value: Any) -> Any:
    """What `get_config` stores of such an object: its class and config, or its name where it is a function."""
    if value is None or isinstance(value, (str, dict)):
        return value
    if hasattr(value, "get_config"):
        return {"class_name": type(value).__name__, "config": value.get_config()}
    return getattr(value, "__name__", repr(value))


_V1_INITIALIZERS: dict[str, Any] = {made.__name__: made for made in INITIALIZERS.values()}


def _resolve(kind: str, value: Any) -> Any:
    if value is None or callable(value):
        return value
    if isinstance(value, (str, dict)):
        try:
            import keras
        except ImportError as missing:
            raise ImportError(
                refusal(
                    f"{kind} were given {value!r}",
                    "Names and configs other than common initializers' are looked up in Keras, which is missing",
                    "Pass a callable, or install batchnorm[keras]",
                )
            ) from missing
        return getattr(keras, kind).get(value)
    raise ValueError(
        refusal(
            f"{kind} were given {value!r}",
            "That is neither a name, nor a config, nor a callable",
            f"Pass one of those, for example an object of tf.compat.v1 or keras.{kind}",
        )
    )
