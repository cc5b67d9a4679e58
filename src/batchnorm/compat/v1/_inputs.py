"""What a v1 layer accepts as its input."""

import warnings
from typing import Any

import tensorflow as tf

from batchnorm.compat.v1._arguments import resolve_dtype
from batchnorm.errors import refusal

__all__ = ["check_input", "check_shape"]


def check_input(layer: Any, inputs: Any) -> Any:
    """The input as a tensor of the layer's compute dtype, which the first input settles where none was asked for.

    Raises:
        TypeError: it is not floating.
        ValueError: its rank is unknown.
    """
    x = tf.convert_to_tensor(inputs, dtype_hint=layer._compute_dtype)
    asked = f"An input of dtype {x.dtype.name} and shape {x.shape} was given to {layer._name!r}"
    if not x.dtype.is_floating:
        raise TypeError(
            refusal(asked, "Only floating numbers can be normalized", "Cast it, e.g. to tf.float32")
        )
    if x.shape.ndims is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise ValueError(
            refusal(
                asked,
                "The rank of the input must be known",
                "Set it with tensor.set_shape or tf.ensure_shape",
            )
        )
    if layer._compute_dtype is None:
        layer._dtype, layer._compute_dtype = resolve_dtype(x.dtype)
    if x.dtype == layer._compute_dtype:
        return x
    if "cast" not in layer._record.warned:
        layer._record.warned.add("cast")
        warnings.warn(
            refusal(
                asked,
                f"The layer computes in {layer._compute_dtype.name}, settled by its dtype argument or first input",
                f"The input is cast; pass dtype={x.dtype.name!r} at construction to compute in that",
            ),
            stacklevel=3,
        )
    return tf.cast(x, layer._compute_dtype)


def check_shape(layer: Any, shape: Any) -> None:
    """Raise ValueError for a shape other than the layer was built for."""
    spec = layer._record
    complaint = ""
    if shape.rank != spec.rank:
        complaint = f"expected ndim={spec.rank}, found ndim={shape.rank}"
    for axis, size in spec.sizes.items():
        if not complaint and shape[axis] not in (None, size):
            complaint = f"expected axis {axis} to have size {size}, found {shape[axis]}"
    if complaint:
        raise ValueError(
            refusal(
                f"An input of shape {shape} was given to {layer._name!r}",
                f"The layer is incompatible with it: {complaint}, as in its first input",
                "Use another layer for inputs of another shape",
            )
        )
