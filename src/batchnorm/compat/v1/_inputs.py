"""What a v1 layer accepts as its input."""

from typing import Any

import tensorflow as tf

from batchnorm.errors import format_error, warn_user

__all__ = ["check_floating", "check_input", "check_shape"]


def check_floating(layer: Any, x: Any) -> None:
    """Raise TypeError for numbers that are not floating, and ValueError for an unknown rank."""
    if not x.dtype.is_floating:
        raise TypeError(
            format_error(
                _asked(layer, x), "Only floating numbers can be normalized", "Cast it, e.g. to tf.float32"
            )
        )
    if x.shape.ndims is None:
        raise ValueError(
            format_error(
                _asked(layer, x),
                "The rank of the input must be known",
                "Set it with tensor.set_shape or tf.ensure_shape",
            )
        )


def check_input(layer: Any, inputs: Any) -> Any:
    """The input as a tensor of the layer's compute dtype."""
    dtype = layer.compute_dtype
    x = tf.convert_to_tensor(inputs, dtype_hint=dtype)
    check_floating(layer, x)
    if dtype is None or x.dtype == dtype:
        return x
    if "cast" not in layer._record.warned:
        layer._record.warned.add("cast")
        warn_user(
            format_error(
                _asked(layer, x),
                f"The layer computes in {dtype}, settled by its dtype argument or first input",
                f"The input is cast; pass dtype={x.dtype.name!r} at construction to compute in it",
            ),
        )
    return tf.cast(x, dtype)


def check_shape(layer: Any, x: Any) -> None:
    """Raise ValueError for a shape other than the layer was built for."""
    spec, shape = layer.input_spec, getattr(x, "shape", None)
    if spec is None or shape is None:
        return
    complaint = ""
    if shape.rank != spec.ndim:
        complaint = f"expected ndim={spec.ndim}, found ndim={shape.rank}"
    sizes = [] if complaint else shape.as_list()
    for axis, size in spec.axes.items():
        if not complaint and sizes[axis] not in (None, size):
            complaint = f"expected axis {axis} to have size {size}, found {sizes[axis]}"
    if complaint:
        raise ValueError(
            format_error(
                f"An input of shape {shape} was given to {layer.name!r}",
                f"The layer is incompatible with it: {complaint}, as in its first input",
                "Use another layer for inputs of another shape",
            )
        )


def _asked(layer: Any, x: Any) -> str:
    return f"An input of dtype {x.dtype.name} and shape {x.shape} was given to {layer.name!r}"
