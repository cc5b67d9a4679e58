"""The adjustment function of a layer: calling it, and saving it."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import keras

from batchnorm._core.adjustment import Adjustment
from batchnorm.errors import refusal

__all__ = ["call_adjustment", "check_adjustment", "serialize_adjustment"]


def check_adjustment(function: Any) -> None:
    """Refuse what cannot be called."""
    if function is not None and not callable(function):
        raise TypeError(
            refusal(
                f"adjustment={function!r} was asked for",
                "It is called with the shape of the inputs at every training step",
                "Pass a function that returns (scale, bias)",
            )
        )


def call_adjustment(function: Callable[[Any], Any], shape: Any, rank: int, dtype: str) -> Adjustment[Any]:
    """The factor and the offset for a batch of this shape, as tensors of the statistics' dtype."""
    result = function(shape)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError(
            refusal(
                f"The adjustment returned {result!r}",
                "It takes a factor and an offset",
                "Return (scale, bias)",
            )
        )
    return Adjustment(*(_read(value, rank, dtype) for value in result))


def serialize_adjustment(function: Any) -> dict[str, Any]:
    """What a configuration needs to bring the function back; nothing, and a warning, where Keras cannot."""
    if function is None:
        return {}
    named = function if inspect.isfunction(function) else type(function)
    if keras.saving.get_registered_name(named) != named.__name__:
        return {"adjustment": keras.saving.serialize_keras_object(function)}
    warnings.warn(
        refusal(
            f"A layer with adjustment={function!r} is being saved or copied",
            "Keras cannot bring this function back, so the configuration leaves it out",
            "Register it with keras.saving.register_keras_serializable, or pass it again after loading",
        ),
        stacklevel=3,
    )
    return {}


def _read(value: Any, rank: int, dtype: str) -> Any:
    if value is None:
        raise ValueError(
            refusal(
                "The adjustment returned None for the factor or the offset",
                "Both are applied",
                "Return 1.0 for no factor and 0.0 for no offset",
            )
        )
    if keras.ops.is_tensor(value) and keras.backend.standardize_dtype(value.dtype) != dtype:
        raise TypeError(
            refusal(
                f"The adjustment returned a tensor of {keras.backend.standardize_dtype(value.dtype)}",
                f"The statistics of this layer are {dtype}",
                f"Return tensors of {dtype}, or Python numbers",
            )
        )
    tensor: Any = keras.ops.convert_to_tensor(value, dtype)
    if len(tensor.shape) > rank:
        raise ValueError(
            refusal(
                f"The adjustment returned a tensor of rank {len(tensor.shape)}",
                f"It must broadcast to the inputs, which have rank {rank}",
                "Return for instance one value per example, [batch, 1, ..., 1]",
            )
        )
    return tensor
