"""The module's arguments as the core's Options, and what can be refused before there is any input."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from batchnorm._core.adjustment import Adjustment
from batchnorm._engines.jax import AxisName, Grouped
from batchnorm._faces.adjustment import call_adjustment
from batchnorm._faces.axes import axes_of
from batchnorm._faces.clip import check_bounds, read_clip
from batchnorm._faces.names import NAMES, reworded
from batchnorm._faces.weights import FIRST_AXES, check_fit, multiply
from batchnorm.errors import format_error
from batchnorm.flax._activation import fusable
from batchnorm.layout import canonical_axes, product
from batchnorm.options import Clip, Ghost, Options, Renorm

__all__ = [
    "Clipping",
    "adjustment_of",
    "check_features",
    "first_given",
    "merge_weights",
    "options_of",
    "read_clipping",
    "read_groups",
    "replicas_of",
]

Array = Any
Bounds = Mapping[str, Any]
Clipping = Bounds | Callable[[Array], Bounds] | None
OF_MASKS = (
    "A mask broadcasts to the input as in NumPy",
    "Pass a mask with an axis of size 1 wherever it repeats",
)


def options_of(module: Any, synchronized: bool = False) -> Options:
    """What the module's attributes ask for by now; programs do assign `module.momentum`."""
    renorm = clip = None
    if module.renorm:
        clip: Any = module.renorm_clipping
        if callable(clip):
            # The gradient takes the schedule's bounds as constants.
            clip = read_clip(clip(module.step[...]), jax.lax.stop_gradient)  # pyright: ignore[reportArgumentType]
    size, ghost = module.virtual_batch_size, None
    try:
        if module.renorm:
            renorm = Renorm(clip, module.renorm_momentum, module.renorm_form)
        if size is not None:
            ghost = Ghost(size, module.ghost_order, module.ghost_remainder, module.ghost_averages)
        return Options(
            axes=axes_of(module.axis),
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
            activation=fusable(module.activation),
        )
    except (TypeError, ValueError) as error:
        raise reworded(error, NAMES) from None


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


def read_groups(groups: Any, axis_name: Any) -> tuple[tuple[int, ...], ...] | None:
    """Groups of indices as tuples, which are compared by value."""
    if groups is None:
        return None
    if not isinstance(axis_name, str):
        raise ValueError(
            format_error(
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
            format_error(
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
        format_error(
            "use_running_average was given neither to the call nor to the module",
            "It decides whether the batch's or the stored statistics normalize",
            "Pass it to one of them, or call the model's train() or eval()",
        )
    )


def check_features(module: Any, shape: tuple[int, ...]) -> None:
    """Refuse an input whose channels are not as many as the module has."""
    axes, features = axes_of(module.axis), module.num_features
    found = product(shape[axis] for axis in canonical_axes(axes, len(shape)))
    if found != features:
        raise ValueError(
            format_error(
                f"An input of shape {tuple(shape)} came to a module with num_features={features}",
                f"Its axis {', '.join(map(str, axes))} has {found} channels",
                "Pass the axis that holds the channels, or construct the module for as many",
            )
        )


def merge_weights(x: Array, mask: Array | None, weights: Array | None) -> Array | None:
    """The mask and the weights as one array of the rank of x, or None."""
    axes = range(x.ndim)
    if mask is not None:
        mask = jnp.atleast_1d(jnp.asarray(mask))
        mask = jnp.reshape(mask != 0, check_fit("A mask", mask.shape, x.shape, axes[-mask.ndim :], OF_MASKS))
    if weights is not None:
        weights = jnp.atleast_1d(jnp.asarray(weights))
        weights = jnp.reshape(weights, check_fit("Weights", weights.shape, x.shape, axes, FIRST_AXES))
    return multiply(mask, weights)
