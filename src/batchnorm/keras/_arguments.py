"""The layer's arguments as the core's Options, and what can be refused before there is any input."""

import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import keras
from numpy.exceptions import AxisError

from batchnorm._faces.axes import axes_of
from batchnorm._faces.fused import fused_hindrances, refuse_fused
from batchnorm._faces.names import NAMES, reworded
from batchnorm.activation import Activation
from batchnorm.errors import format_error
from batchnorm.keras._activation import fusable
from batchnorm.keras._backend import backend
from batchnorm.layout import canonical_axes, plan_layout
from batchnorm.options import BOUNDS, OF_OLD, Clip, Ghost, Options, Renorm, check_share

__all__ = [
    "build_axes",
    "index_of",
    "options_of",
    "read_epsilon",
    "read_share",
    "resolve_fused",
]

# The ranks of the inputs of Keras 2's fused kernel.
FUSED_RANKS = (4, 5)
# Fields of Options in the order in which `options_of` gives them, after those of Ghost and Renorm.
FIELDS = (
    *("axes", "decay", "epsilon", "with_gamma", "with_beta", "variance", "debias_mean", "synchronized"),
    *("fused", "activation"),
)
# The types of arguments that stay what they are.
KNOWN = frozenset((bool, int, float, str, tuple, Activation, type(None)))


def index_of(axis: Any) -> int:
    """One axis; whole floats name one too, as in Keras 3, which takes int(axis) even of 1.7 and "1"."""
    whole: Any = int(axis) if isinstance(axis, float) and axis.is_integer() else axis
    return int(operator.index(whole))


def read_epsilon(value: Any) -> float:
    """Epsilon as a float, as Keras 3 keeps it."""
    return _read_float("epsilon", value, "It is added to the variance", "Pass a number such as 1e-3")


def read_share(name: str, value: Any) -> float:
    """A momentum as a float, the share that a moving average keeps."""
    share = _read_float(name, value, *OF_OLD)
    check_share(f"{name}=%r", share)
    return share


def _read_float(name: str, value: Any, why: str, remedy: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise type(error)(format_error(f"{name}={value!r} was asked for", why, remedy)) from None


def options_of(layer: Any) -> Options:
    """What the layer's attributes ask for by now; programs do assign `layer.momentum` on a built layer."""
    clipping = layer.renorm_clipping if layer.renorm else None
    bounds = None if clipping is None else [_read_bound(clipping.get(name)) for name in BOUNDS]
    asked = (
        layer.virtual_batch_size,
        layer.ghost_order,
        layer.ghost_remainder,
        layer.ghost_averages,
        layer.renorm_momentum if layer.renorm else None,
        # FIELDS
        axes_of(layer.axis),
        layer.momentum,
        layer.epsilon,
        bool(layer.scale),
        bool(layer.center),
        layer.variance,
        bool(layer.zero_debias_moving_mean),
        bool(layer.synchronized),
        layer.wants_kernel,
        fusable(layer.activation),
        *(bounds or ()),
    )
    # Tensors are not remembered, as they may be those of a program that is being traced.
    known = all(map(KNOWN.__contains__, map(type, asked))) and not backend().is_compiling()
    options = _known_options(*asked) if known else _options(*asked)
    if options.fused:
        refuse_fused(layer)
    return options


def _options(size: Any, order: Any, remainder: Any, averages: Any, renorm_decay: Any, *rest: Any) -> Options:
    fields, bounds = dict(zip(FIELDS, rest, strict=False)), rest[len(FIELDS) :]
    try:
        ghost = Ghost(1 if size is None else size, order, remainder, averages)
        renorm = Renorm(Clip(*bounds), renorm_decay) if bounds else None
        return Options(ghost=None if size is None else ghost, renorm=renorm, **fields)
    except (TypeError, ValueError) as error:
        raise reworded(error, NAMES) from None


# Of equal numbers of different types not each is taken: 16 is a size, and 16.0 is none.
_known_options = lru_cache(maxsize=1024, typed=True)(_options)


def resolve_fused(layer: Any, rank: int | None = None) -> bool | None:
    """What `layer.fused` shows, as Keras 2's did: the wish, or False where the options rule the kernel out.

    A built layer, whose inputs' rank is known, shows whether Keras 2 would run fused on them.
    """
    options = options_of(layer)
    if options.fused is False or fused_hindrances(layer):
        return False
    return options.fused if rank is None else rank in FUSED_RANKS


def build_axes(options: Options, shape: Sequence[int | None]) -> tuple[int, ...]:
    """The channel axes as positions in an input of this shape.

    Raises:
        AxisError: an axis is out of range or named twice. It is an IndexError, as Keras 3 raises, and a
            ValueError, as Keras 2 does.
        ValueError: a channel axis has no known size, ghost batches would divide it, or fused=True has no
            kernel.
    """
    try:
        axes = canonical_axes(options.axes, len(shape))
    except ValueError as error:
        raise AxisError(str(error)) from None
    unknown = [axis for axis in axes if shape[axis] is None]
    if unknown:
        raise ValueError(
            format_error(
                f"Axis {unknown[0]} of an input of shape {tuple(shape)} was asked for",
                "Its size is unknown, and each of its indices has variables of its own",
                "Give the input a known size there",
            )
        )
    if options.ghost is not None:
        # Planned for a batch of one group, only so that what no batch could satisfy is refused now.
        plan_layout((options.ghost.size, *(size or 1 for size in shape[1:])), axes, options.ghost)
    if options.fused and (len(shape) not in FUSED_RANKS or 0 in axes):
        raise ValueError(
            format_error(
                f"fused=True was asked for with axis {axes[0]} of an input of rank {len(shape)}",
                "The fused kernel takes 4D or 5D input tensors and normalizes a channel axis",
                "Leave `fused` at None, which takes the fastest way there is",
            )
        )
    return axes


def _read_bound(bound: Any) -> Any:
    """What a bound is by now: a schedule keeps it in a variable."""
    return backend().value(bound) if isinstance(bound, keras.Variable) else bound
