"""The module's arguments as the core's Options, and what can be refused before there is any input."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from batchnorm._core.adjustment import Adjustment
from batchnorm._engines.jax import AxisName, Grouped
from batchnorm._faces.adjustment import call_adjustment
from batchnorm._faces.clip import check_bounds, read_clip
from batchnorm.errors import refusal
from batchnorm.layout import canonical_axes, product
from batchnorm.options import Clip, Ghost, Options, Renorm

__all__ = [
    "Clipping",
    "adjustment_of",
    "check_features",
    "first_given",
    "merge_weights",
    "options_of",
    "read_axis",
    "read_clipping",
    "read_groups",
    "read_share",
    "replicas_of",
]

Array = Any
Bounds = Mapping[str, Any]
Clipping = Bounds | Callable[[Array], Bounds] | None
SHARE = ("It is the share that a moving average keeps of its old value", "Pass a number such as 0.99")


def options_of(module: Any, synchronized: bool = False) -> Options:
    """What the module's attributes ask for by now; programs do assign `module.momentum`."""
    renorm = None
    if module.renorm:
        clip: Any = module.renorm_clipping
        if callable(clip):
            # The gradient takes the schedule's bounds as constants.
            clip = read_clip(clip(module.step[...]), jax.lax.stop_gradient)  # pyright: ignore[reportArgumentType]
        renorm = Renorm(clip, module.renorm_momentum, module.renorm_form)
    size, ghost = module.virtual_batch_size, None
    if size is not None:
        ghost = Ghost(size, module.ghost_order, module.ghost_remainder, module.ghost_averages)
    return Options(
        axes=axes_of(module),
        decay=module.momentum,
        epsilon=module.epsilon,
        with_gamma=module.use_scale,
        with_beta=module.use_bias,
        variance=module.variance,
        renorm=renorm,
        ghost=ghost,
        debias_mean=module.zero_debias,
        synchronized=synchronized,
        fused=module.fused,
    )


def replicas_of(module: Any) -> AxisName | None:
    """What the statistics are summed over, as the engine takes it."""
    if module.axis_index_groups is None:
        return module.axis_name
    return Grouped(module.axis_name, module.axis_index_groups)


def adjustment_of(module: Any, x: Array) -> Adjustment[Array] | None:
    """The factor and the offset for this input."""
    if module.adjustment is None:
        return None
    return call_adjustment(module.adjustment, x.shape, x.ndim, jnp.asarray)


def read_axis(axis: Any) -> int | tuple[int, ...]:
    """The axis as an int, or several as a tuple, as they were written."""
    try:
        return tuple(map(operator.index, axis)) if isinstance(axis, Sequence) else operator.index(axis)
    except TypeError:
        raise TypeError(
            refusal(
                f"axis={axis!r} was asked for",
                "An axis is named by an int",
                "Pass an int such as -1, or several",
            )
        ) from None


def axes_of(module: Any) -> tuple[int, ...]:
    """The channel axes, of which there may be one or several."""
    return (module.axis,) if isinstance(module.axis, int) else module.axis


def read_share(name: str, value: Any) -> Any:
    """A momentum: a number between 0 and 1, or a scalar array."""
    if isinstance(value, int | float) and not 0.0 <= value <= 1.0:
        raise ValueError(refusal(f"{name}={value!r} was asked for", *SHARE))
    return value


def read_groups(groups: Any, axis_name: Any) -> tuple[tuple[int, ...], ...] | None:
    """Groups of indices as tuples, which are compared by value."""
    if groups is None:
        return None
    if not isinstance(axis_name, str):
        raise ValueError(
            refusal(
                f"axis_index_groups={groups!r} was asked for with axis_name={axis_name!r}",
                "They are groups of indices along one mapped axis",
                "Pass the name of that axis as axis_name",
            )
        )
    return tuple(tuple(map(int, group)) for group in groups)


def read_clipping(clipping: Clipping, renorm: bool) -> Clip | Callable[[Array], Bounds]:
    """Bounds as a record of numbers, checked; a schedule as it is."""
    if clipping is not None and not renorm:
        raise ValueError(
            refusal(
                f"renorm_clipping={clipping!r} was asked for without renorm",
                "It bounds the corrections of batch renormalization",
                "Pass renorm=True as well, or leave it out",
            )
        )
    if callable(clipping):
        return clipping
    return check_bounds(read_clip(clipping, float))


def first_given(*values: bool | None) -> bool:
    """The first that is not None, of the call's and the module's `use_running_average`."""
    for value in values:
        if value is not None:
            return bool(value)
    raise ValueError(
        refusal(
            "use_running_average was given neither to the call nor to the module",
            "It decides whether the batch's or the stored statistics normalize",
            "Pass it to one of them, or call the model's train() or eval()",
        )
    )


def check_features(module: Any, shape: tuple[int, ...]) -> None:
    """Refuse an input whose channels are not as many as the module has."""
    axes, features = axes_of(module), module.num_features
    found = product(shape[axis] for axis in canonical_axes(axes, len(shape)))
    if found != features:
        raise ValueError(
            refusal(
                f"An input of shape {tuple(shape)} came to a module with num_features={features}",
                f"Its axis {', '.join(map(str, axes))} has {found} channels",
                "Pass the axis that holds the channels, or construct the module for as many",
            )
        )


def merge_weights(x: Array, mask: Array | None, weights: Array | None) -> Array | None:
    """The mask and the weights as one array of the rank of x, or None."""
    merged = None
    if mask is not None:
        mask = jnp.asarray(mask)
        _check_fit("A mask", mask.shape, (1,) * (x.ndim - mask.ndim) + mask.shape, x.shape)
        merged = jnp.reshape(mask != 0, (1,) * (x.ndim - mask.ndim) + mask.shape)
    if weights is None:
        return merged
    weights = jnp.asarray(weights)
    spread = weights.shape + (1,) * (x.ndim - weights.ndim)
    _check_fit("Weights", weights.shape, spread, x.shape)
    weights = jnp.reshape(weights, spread)
    return weights if merged is None else weights * merged


def _check_fit(what: str, given: tuple[int, ...], spread: tuple[int, ...], shape: tuple[int, ...]) -> None:
    fits = len(spread) == len(shape) and all(
        size in (1, wanted) for size, wanted in zip(spread, shape, strict=True)
    )
    if not fits:
        raise ValueError(
            refusal(
                f"{what} of shape {given} came with an input of shape {tuple(shape)}",
                "A mask broadcasts to the input as in NumPy, and the axes of weights stand for the input's first ones",
                "Pass weights of shape [batch], or a mask with an axis of size 1 wherever it repeats",
            )
        )
