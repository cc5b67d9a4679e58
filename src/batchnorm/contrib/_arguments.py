"""The arguments of one `batch_norm` call, and what they decide before anything is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from numbers import Real
from typing import Any

import numpy as np
import tensorflow as tf

from batchnorm._faces import names
from batchnorm._faces.switches import check_switches
from batchnorm._tf1.training import resolve_training
from batchnorm.compat.v1._arguments import LayerArguments, shared_options
from batchnorm.errors import format_error, warn_user
from batchnorm.layout import canonical_axes
from batchnorm.options import Options

__all__ = [
    "Arguments",
    "Path",
    "channels_of",
    "check_data_format",
    "check_given",
    "choose_path",
    "make_options",
    "training_of",
]

# The core's names for what the function's arguments say.
NAMES = names.NAMES | {"Options.decay": "decay", "Renorm.decay": "renorm_decay"}
# The variables that may have an initializer or a regularizer of their own.
KEYS = {
    "param_initializers": ("beta", "gamma", "moving_mean", "moving_variance"),
    "param_regularizers": ("beta", "gamma"),
}
UPDATE_OPS = tf.compat.v1.GraphKeys.UPDATE_OPS
DATA_FORMATS = ("NHWC", "NCHW")


class Path(Enum):
    """Which of three implementations the original would have run.

    Here all three do the same arithmetic; what the path still decides is names, the order of the variables and their
    dtype, what the update collections hold, and which estimator enters the moving variance.
    """

    FUSED = "contrib's own, around the fused kernel"
    V1_LAYER = "the v1 layer"
    LEGACY = "contrib's own, without a fused kernel"


@dataclass(frozen=True, kw_only=True)
class Arguments(LayerArguments):
    """The arguments that shape one call, as given. `batch_norm` documents them; `decay` is the layer's `momentum`."""

    param_initializers: Mapping[str, Any] | None
    param_regularizers: Mapping[str, Any] | None
    updates_collections: Any
    is_training: Any
    reuse: Any
    variables_collections: Any
    batch_weights: Any
    data_format: str
    zero_debias_moving_mean: bool


def choose_path(arguments: Arguments, rank: int | None) -> Path:
    """The original's rule, but for one thing: any string that equals UPDATE_OPS is that collection's name."""
    collected = isinstance(arguments.updates_collections, str) and arguments.updates_collections == UPDATE_OPS
    plain = arguments.batch_weights is None and not arguments.renorm and arguments.adjustment is None
    fusable = (arguments.fused is None or arguments.fused) and plain and rank in (2, 4)
    if fusable and (rank == 2 or arguments.zero_debias_moving_mean or not collected):
        return Path.FUSED
    if arguments.batch_weights is None and collected and not arguments.zero_debias_moving_mean:
        return Path.V1_LAYER
    return Path.LEGACY


def make_options(arguments: Arguments, path: Path, axis: int, trains: bool) -> Options:
    """The core's options for one of contrib's own paths."""
    return shared_options(
        arguments,
        NAMES,
        axes=(axis,),
        variance="sample" if path is Path.FUSED else "population",
        # The shadow variables of the debiasing exist only where there are updates.
        debias_mean=bool(arguments.zero_debias_moving_mean) and trains,
        fused=None if path is Path.FUSED or arguments.fused is None else bool(arguments.fused),
    )


def training_of(is_training: Any) -> Any:
    """A bool, or a boolean scalar tensor. Python numbers count by their truth, as on contrib's own paths of old.

    Raises:
        TypeError: neither a number nor a boolean tensor or variable.
        ValueError: None, or a tensor that is not a scalar.
    """
    if is_training is None:
        raise ValueError(
            format_error(
                "is_training=None was asked for",
                "With these arguments there is no learning phase that None could stand for",
                "Pass True, False, or a boolean scalar tensor",
            )
        )
    if isinstance(is_training, (bool, np.bool_, Real)):
        return bool(is_training)
    return resolve_training(is_training)


def check_given(arguments: Arguments, activation_fn: Any) -> None:
    """Check what would only fail once variables have been made, and warn of what the original ignores silently.

    Raises:
        TypeError: `activation_fn` is not a function, a switch is neither on nor off, or a decay is no number.
        ValueError: a number is outside its range, or the bounds have an unknown key.
    """
    if activation_fn is not None and not callable(activation_fn):
        raise TypeError(
            format_error(
                f"activation_fn={activation_fn!r} was asked for",
                "It is called with the normalized tensor, so it must be a function",
                "Pass one such as tf.nn.relu",
            )
        )
    switches = ("center", "scale", "renorm", "fused", "trainable", "zero_debias_moving_mean")
    check_switches(**{name: getattr(arguments, name) for name in switches})
    # Whichever path the call takes, its errors name these arguments.
    shared_options(arguments, NAMES)
    for name, known in KEYS.items():
        unknown = sorted(set(getattr(arguments, name) or {}) - set(known))
        if unknown:
            warn_user(
                format_error(
                    f"{name} was given {', '.join(map(repr, unknown))}",
                    "It maps names of variables to functions, and as there is no such variable, this has no effect",
                    f"Use any of {', '.join(known)}",
                ),
            )


def check_data_format(data_format: Any) -> None:
    """Raise ValueError for anything but NHWC and NCHW."""
    if data_format not in DATA_FORMATS:
        raise ValueError(
            format_error(
                f"data_format={data_format!r} was asked for",
                "data_format has to be either NCHW or NHWC: channels second or channels last, at any rank",
                "Pass one of the two",
            )
        )


def channels_of(arguments: Arguments, x: Any) -> tuple[int, int]:
    """The channel axis of a floating tensor of known rank, and how many channels there are.

    Raises:
        TypeError: the tensor is not floating.
        ValueError: its rank or the number of its channels is not known, or it has no such axis.
    """
    given = f"An input of dtype {x.dtype.base_dtype.name} and shape {x.shape} was given with {arguments.data_format}"
    if not x.dtype.is_floating:
        raise TypeError(
            format_error(given, "Only floating numbers can be normalized", "Cast it, e.g. to tf.float32")
        )
    if x.shape.rank is None:
        raise ValueError(
            format_error(
                given, "The input has undefined rank", "Set it with tensor.set_shape or tf.ensure_shape"
            )
        )
    (axis,) = canonical_axes((1 if arguments.data_format == "NCHW" else -1,), x.shape.rank)
    channels = x.shape.as_list()[axis]
    if channels is None:
        raise ValueError(
            format_error(
                given,
                f"The input has undefined channels dimension: the size of axis {axis} sizes the variables",
                "Set it with tensor.set_shape or tf.ensure_shape",
            )
        )
    return axis, channels
