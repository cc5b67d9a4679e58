"""The v1 layer's arguments, checked and turned into the core's options."""

import warnings
from typing import Any

import tensorflow as tf

from batchnorm.errors import refusal
from batchnorm.options import Clip, Ghost, Options, Renorm

__all__ = ["check_axis", "make_clip", "make_options", "resolve_dtype"]

# What the original's base class took without any effect on this layer.
IGNORED = {
    "synchronized": "The v1 layer takes its statistics on each replica by itself, as it always did",
    "autocast": "The v1 layer casts its input to its own dtype in any case",
    "input_shape": "The first call settles the shape",
    "batch_input_shape": "The first call settles the shape",
    "input_dim": "The first call settles the shape",
    "batch_size": "The first call settles the shape",
}
CLIP_KEYS = ("rmin", "rmax", "dmax")


def check_axis(axis: Any) -> Any:
    """The axis as an int, or as a list of ints that is the layer's own."""
    if isinstance(axis, int):
        return int(axis)
    if isinstance(axis, (list, tuple)):
        if not axis:
            raise ValueError(
                refusal(
                    "axis=[] was asked for",
                    "Without a channel axis there is nothing to keep statistics for",
                    "Name at least one axis, such as axis=-1",
                )
            )
        if all(isinstance(each, int) for each in axis):  # pyright: ignore[reportUnknownVariableType]
            return [int(each) for each in axis]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
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


def check_unknown(given: dict[str, Any]) -> None:
    """Raise TypeError for an argument that never was, and warn of one that the original took and ignored."""
    unknown = sorted(set(given) - set(IGNORED))
    if unknown:
        raise TypeError(
            refusal(
                f"BatchNormalization was given {', '.join(unknown)}",
                "It has no such argument",
                "Check the spelling against help(BatchNormalization)",
            )
        )
    for name in given:
        warnings.warn(
            refusal(f"BatchNormalization was given {name}", IGNORED[name], "Leave it out"), stacklevel=3
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
