"""The adjustment function of a layer: calling it, and saving it."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from batchnorm._core.adjustment import Adjustment
from batchnorm._faces.adjustment import call_adjustment, check_dtype
from batchnorm.errors import format_error, warn_user

__all__ = ["adjustment_for", "serialize_adjustment"]


def adjustment_for(function: Callable[[Any], Any], shape: Any, rank: int, dtype: str) -> Adjustment[Any]:
    """The factor and the offset for a batch of this shape, as tensors of the statistics' dtype."""

    def convert(value: Any) -> Any:
        if keras.ops.is_tensor(value):
            check_dtype(keras.backend.standardize_dtype(value.dtype), dtype)
        return keras.ops.convert_to_tensor(value, dtype)

    return call_adjustment(function, shape, rank, convert)


def serialize_adjustment(function: Any) -> dict[str, Any]:
    """What a configuration needs to bring the function back; nothing, and a warning, where Keras cannot."""
    if function is None:
        return {}
    named = function if inspect.isfunction(function) else type(function)
    if keras.saving.get_registered_name(named) != named.__name__:
        return {"adjustment": keras.saving.serialize_keras_object(function)}
    warn_user(
        format_error(
            f"A layer with adjustment={function!r} is being saved or copied",
            "Keras cannot bring this function back, so the configuration leaves it out",
            "Register it with keras.saving.register_keras_serializable, or pass it again after loading",
        ),
    )
    return {}
