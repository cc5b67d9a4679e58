"""The v1 layer's arguments, checked and turned into the core's options."""

from typing import Any

import tensorflow as tf

from batchnorm.errors import refusal
from batchnorm.options import Clip, Ghost, Options, Renorm

__all__ = ["check_axis", "make_clip", "make_options", "resolve_dtype"]

CLIP_KEYS = ("rmin", "rmax", "dmax")


def check_axis(axis: Any) -> Any:
    """The axis as an int, or as a list of ints that is the layer's own."""
    if isinstance(axis, int) and not isinstance(axis, bool):
        return axis
    if isinstance(axis, (list, tuple)):
        if not axis:
            raise ValueError(
                refusal(
                    "axis=[] was asked for",
                    "Without a channel axis there is nothing to keep statistics for",
                    "Name at least one axis, such as axis=-1",
                )
            )
        if all(isinstance(each, int) and not isinstance(each, bool) for each in axis):  # pyright: ignore[reportUnknownVariableType]
            return list(axis)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    raise TypeError(
        refusal(
            f"axis={axis!r} was asked for",
            f"Expected an int or a list/tuple of ints for the argument 'axis', but received: {axis!r}",
            "Pass an int such as -1, or a list of ints such as [1, 3]",
        )
    )


def make_options(layer: Any, axes: tuple[int, ...] | None = None, variance: Any = "population") -> Options:
    """The core's options for a layer, on the given non-negative axes once those are known."""
    asked = layer.axis if isinstance(layer.axis, list) else [layer.axis]
    size = layer.virtual_batch_size
    renorm = None
    if layer.renorm:
        renorm = Renorm(make_clip(layer.renorm_clipping), layer.renorm_momentum, layer.renorm_form)
    return Options(
        axes=tuple(asked) if axes is None else axes,
        decay=layer.momentum,
        epsilon=layer.epsilon,
        with_gamma=bool(layer.scale),
        with_beta=bool(layer.center),
        variance=variance,
        renorm=renorm,
        ghost=None if size is None else Ghost(size, layer.ghost_order),
        fused=layer.wants_kernel,
    )


def make_clip(clipping: dict[str, Any] | None) -> Clip:
    """The clip record from the historical dictionary.

    Raises:
        ValueError: a key other than rmin, rmax and dmax.
    """
    clipping = clipping or {}
    unknown = sorted(set(clipping) - set(CLIP_KEYS))
    if unknown:
        raise ValueError(
            refusal(
                f"renorm_clipping contains keys {sorted(clipping)}",
                f"Received invalid keys {unknown}: only r and d of batch renormalization are clipped",
                f"Use keys out of {', '.join(CLIP_KEYS)}",
            )
        )
    return Clip(**clipping)


def resolve_dtype(dtype: Any) -> tuple[Any, Any]:
    """The variables' dtype and the compute dtype; (None, None) where the first input is to decide.

    16-bit layers keep their variables in float32.
    """
    if dtype is None:
        return None, None
    compute = getattr(dtype, "compute_dtype", dtype)
    if isinstance(compute, str) and compute.startswith("mixed_"):
        compute = compute.removeprefix("mixed_")
    compute = tf.as_dtype(compute)
    return parameter_dtype(compute), compute


def parameter_dtype(compute: Any) -> Any:
    """float32 for 16-bit floats, else the same."""
    return tf.float32 if compute in (tf.float16, tf.bfloat16) else compute
