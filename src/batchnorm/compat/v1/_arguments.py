"""The v1 layer's arguments, checked and turned into the core's options."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from batchnorm._faces.axes import axes_of, read_axis
from batchnorm._faces.clip import read_clip
from batchnorm._faces.names import NAMES, reworded
from batchnorm.errors import format_error, warn_user
from batchnorm.options import Ghost, Options, Renorm

__all__ = [
    "LayerArguments",
    "Policy",
    "check_axis",
    "check_unknown",
    "make_options",
    "parameter_dtype",
    "read_policy",
    "shared_options",
    "warn_of_ignored",
]

# What the original's base class took without any effect on this layer.
IGNORED = {
    "autocast": "The v1 layer casts its input to its own dtype in any case",
    "implementation": "The v1 layer has one",
    "input_shape": "The first call settles the shape",
    "batch_input_shape": "The first call settles the shape",
    "input_dim": "The first call settles the shape",
    "batch_size": "The first call settles the shape",
}
SYNCHRONIZED = "The v1 layer computes its statistics on each replica separately, as it always did"


def check_axis(axis: Any) -> Any:
    """The axis as an int, or as a list of ints that is the layer's own."""

    def index(each: Any) -> int:
        if not isinstance(each, int):
            raise TypeError
        return int(each)

    found = read_axis(axis, index)
    return list(found) if isinstance(found, tuple) else found


def make_options(layer: Any, axes: tuple[int, ...] | None = None, variance: Any = "population") -> Options:
    """The core's options for a layer, on the given non-negative axes once those are known."""
    size, ghost = layer.virtual_batch_size, None
    if size is not None:
        try:
            ghost = Ghost(size, layer.ghost_order)
        except ValueError as error:
            raise reworded(error, NAMES) from None
    return shared_options(
        layer,
        axes=axes_of(layer.axis) if axes is None else axes,
        variance=variance,
        ghost=ghost,
        fused=layer.wants_kernel,
    )


@dataclass(frozen=True, kw_only=True)
class LayerArguments:
    """What `tf.contrib`'s function is given that the layer has as well, by the layer's names."""

    momentum: Any
    epsilon: float
    center: bool
    scale: bool
    renorm: bool
    renorm_clipping: dict[str, Any] | None
    renorm_momentum: Any
    renorm_form: Literal["current", "debiased"]
    fused: bool | None
    trainable: bool
    adjustment: Callable[[Any], Any] | None


def shared_options(given: Any, names: Mapping[str, str] = NAMES, **others: Any) -> Options:
    """The core's options, from what a layer or contrib's record of arguments says, and `others`.

    Args:
        names: the arguments' names, by the core's, for errors.
    """
    renorm = None
    try:
        if given.renorm:
            clip = read_clip(given.renorm_clipping)
            renorm = Renorm(clip, given.renorm_momentum, given.renorm_form)
        return Options(
            decay=given.momentum,
            epsilon=given.epsilon,
            with_gamma=bool(given.scale),
            with_beta=bool(given.center),
            renorm=renorm,
            **others,
        )
    except (TypeError, ValueError) as error:
        raise reworded(error, names) from None


def check_unknown(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments for the base class.

    Raises:
        TypeError: an argument that never existed.
    """
    unknown = sorted(set(given) - {*IGNORED, "synchronized", "weights"})
    if unknown:
        raise TypeError(
            format_error(
                f"BatchNormalization was given {', '.join(unknown)}",
                "It has no such argument",
                "Check the spelling against help(BatchNormalization)",
            )
        )
    if "synchronized" in given:
        _warn("synchronized", SYNCHRONIZED)
    return {name: value for name, value in given.items() if name != "synchronized"}


def warn_of_ignored(given: dict[str, Any]) -> None:
    """Warn of arguments that only have an effect together with Keras 2."""
    for name in given:
        _warn(name, IGNORED[name])


def _warn(name: str, why: str) -> None:
    warn_user(format_error(f"BatchNormalization was given {name}", why, "Leave it out"))


class Policy(NamedTuple):
    """The dtypes of a layer, by name; None if the first input decides."""

    name: str | None
    compute_dtype: str | None
    variable_dtype: str | None


def read_policy(dtype: Any) -> Policy:
    """The policy behind a dtype, a name such as "mixed_float16", a policy of either Keras, or the config of one."""
    if dtype is None:
        return Policy(None, None, None)
    if isinstance(dtype, dict):
        return read_policy(dtype["config"]["name"])  # pyright: ignore[reportUnknownArgumentType]
    if hasattr(dtype, "compute_dtype"):
        return Policy(dtype.name, dtype.compute_dtype, dtype.variable_dtype)
    if isinstance(dtype, str) and dtype.startswith("mixed_"):
        return Policy(dtype, dtype.removeprefix("mixed_"), "float32")
    name = tf.as_dtype(dtype).base_dtype.name
    return Policy(name, name, name)


def parameter_dtype(dtype: str | None) -> Any:
    """The dtype of a layer's variables, given the layer's: float32 for 16-bit floats, otherwise the same."""
    return tf.float32 if dtype in (None, "float16", "bfloat16") else dtype
