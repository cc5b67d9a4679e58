"""Statistics that a subclass of the layer computes by itself, as subclasses of Keras 3's own layer do."""

from typing import Any

import keras

from batchnorm._core.engine import Moments
from batchnorm._core.moments import merge_replicas
from batchnorm.errors import format_error
from batchnorm.keras._backend import backend
from batchnorm.keras._weights import merge_weights
from batchnorm.layout import Layout
from batchnorm.options import Options

__all__ = ["ask_moments", "overrides_moments", "own_moments", "remember_own"]

Tensor = Any

_own: list[Any] = []


def remember_own(layer_class: Any) -> None:
    """Remember the layer's own `_moments`, so that any other is recognized."""
    _own.append(layer_class._moments)


def overrides_moments(layer: Any) -> bool:
    """Whether a subclass overrides `_moments`, or a program has replaced it."""
    return type(layer)._moments is not _own[0] or "_moments" in vars(layer)


def ask_moments(
    layer: Any, options: Options, layout: Layout, x: Tensor, mask: Tensor | None, sample_weight: Tensor | None
) -> Moments[Any]:
    """What the layer's `_moments` returns for x, which is in the statistics' dtype.

    Raises:
        ValueError: an option or argument was used that `_moments` does not receive.
    """
    hindrances = {"sample_weight": sample_weight is not None, "virtual_batch_size": options.ghost is not None}
    for name, hinders in hindrances.items():
        if hinders:
            raise ValueError(
                format_error(
                    f"{name} was used with {type(layer).__name__}, which overrides _moments",
                    f"_moments takes the inputs and a mask, so {name} would be ignored",
                    f"Leave {name} out, or do not override _moments",
                )
            )
    ops = backend().engine.ops
    mean, variance = (
        ops.reshape(ops.cast(value, ops.stat_dtype(x)), (1, layout.channels))
        for value in layer._moments(x, mask)
    )
    count = ops.as_float(layout.count, ops.dtype(mean))
    return Moments(count, count, mean, variance, mean, ops.zeros_like(mean))


def own_moments(
    layer: Any, options: Options, layout: Layout, x: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Mean and variance by channel, in operations that the framework differentiates by itself."""
    engine = backend().engine
    weights = merge_weights(x, mask, None, keras.backend.standardize_dtype(x.dtype))
    taken = engine.composed.moments(x, weights, layout)
    if options.synchronized:
        taken = merge_replicas(engine.composed, taken)
    sizes = tuple(layout.shape[axis] for axis in layout.axes)
    return engine.ops.reshape(taken.mean, sizes), engine.ops.reshape(taken.variance, sizes)
