"""The passes as ops on the CPU kernels (`csrc/`), in eager and graph mode, with known and unknown sizes."""

import struct
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from batchnorm._core import fused
from batchnorm._core.engine import GradTerms, Moments, Saved
from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.composed import composed
from batchnorm._engines.tensorflow.dispatch import GHOST_ORDERS, Kernels
from batchnorm._engines.tensorflow.native_or_composed import native_or_composed
from batchnorm.layout import Layout, plan_layout
from batchnorm.options import Ghost

__all__ = [
    "apply",
    "epsilon_bits",
    "epsilon_of",
    "fused_gradients",
    "fused_train",
    "grad_input",
    "grad_sums",
    "large",
    "layout_of",
    "moments",
    "statistic",
]

Tensor = Any


def moments(kernels: Kernels, x: Tensor, weights: Tensor | None, layout: Layout) -> Moments[Tensor]:
    """Mean and mean squared deviation over the reduced runs."""
    spread = None if weights is None else _spread(weights, x, layout)
    dtype = ops.stat_dtype(x)

    def native(layout: Layout) -> tuple[Tensor, ...]:
        total, effective, *statistics = kernels.ops.batchnorm_kernels_moments(
            x,
            [] if spread is None else [spread],
            U=dtype,
            weights_by_group=int(spread is not None and bool(kernels.by_group)),
            **kernels.attributes,
        )
        statistics = tuple(statistic(value, layout) for value in statistics)
        return statistics if spread is None else (*statistics, total, effective)

    def plain(layout: Layout) -> tuple[Tensor, ...]:
        total, effective, _, variance, center, offset = composed.moments(x, weights, layout)
        statistics = (center, offset, variance)
        return statistics if spread is None else (*statistics, total, effective)

    center, offset, variance, *totals = native_or_composed(x, layout, native, plain)
    total, effective = totals or [ops.as_float(layout.count, dtype)] * 2
    return Moments(total, effective, center + offset, variance, center, offset)


def apply(kernels: Kernels, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, layout: Layout) -> Tensor:
    """(x − mean)·scale + shift."""
    mean, scale, shift = _known((mean, scale, shift), layout)

    def native(layout: Layout) -> Tensor:
        return large(kernels.ops.batchnorm_kernels_apply(x, mean, scale, shift, **kernels.attributes), layout)

    return native_or_composed(x, layout, native, lambda layout: composed.apply(x, mean, scale, shift, layout))


def grad_sums(kernels: Kernels, dy: Tensor, x: Tensor, mean: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Σdy and Σdy·(x − mean)."""
    (mean,) = _known((mean,), layout)

    def native(layout: Layout) -> tuple[Tensor, ...]:
        sums = kernels.ops.batchnorm_kernels_grad_sums(dy, x, mean, **kernels.attributes)
        return tuple(statistic(part, layout) for part in sums)

    return native_or_composed(x, layout, native, lambda layout: composed.grad_sums(dy, x, mean, layout))


def grad_input(
    kernels: Kernels,
    dy: Tensor,
    x: Tensor,
    weights: Tensor | None,
    mean: Tensor,
    terms: GradTerms[Tensor],
    layout: Layout,
) -> Tensor:
    """slope·dy + w·(tilt·(x − mean) + offset)."""
    spread = None if weights is None else _spread(weights, x, layout)
    mean, *known = _known((mean, *terms), layout)

    def native(layout: Layout) -> Tensor:
        dx = kernels.ops.batchnorm_kernels_grad_input(
            dy,
            x,
            mean,
            *known,
            [] if spread is None else [spread],
            weights_by_group=int(spread is not None and bool(kernels.by_group)),
            **kernels.attributes,
        )
        return large(dx, layout)

    return native_or_composed(
        x,
        layout,
        native,
        lambda layout: composed.grad_input(dy, x, weights, mean, GradTerms(*known), layout),
    )


def fused_train(
    kernels: Kernels, x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, layout: Layout
) -> tuple[Tensor, Moments[Tensor], Tensor]:
    """y, the moments and the scale in one call."""
    dtype = ops.stat_dtype(x)

    def native(layout: Layout) -> tuple[Tensor, ...]:
        y, *statistics = kernels.ops.batchnorm_kernels_train(
            x,
            [] if gamma is None else [gamma],
            [] if beta is None else [beta],
            U=dtype,
            epsilon_bits=epsilon_bits(epsilon),
            **kernels.attributes,
        )
        return large(y, layout), *(statistic(value, layout) for value in statistics)

    def plain(layout: Layout) -> tuple[Tensor, ...]:
        y, moments, scale = fused.train(composed, x, gamma, beta, epsilon, layout)
        return y, moments.center, moments.offset, moments.variance, scale

    y, center, offset, variance, scale = native_or_composed(x, layout, native, plain)
    total = ops.as_float(layout.count, dtype)
    return y, Moments(total, total, center + offset, variance, center, offset), scale


def fused_gradients(
    kernels: Kernels, dy: Tensor, x: Tensor, saved: Saved[Tensor], epsilon: float, layout: Layout
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, Σdy and Σdy·x̂ in one call."""
    statistics = (saved.center, saved.offset, saved.variance, saved.scale)
    center, offset, variance, scale = known = _known(statistics, layout)

    def native(layout: Layout) -> tuple[Tensor, ...]:
        dx, *sums = kernels.ops.batchnorm_kernels_gradients(
            dy, x, *known, epsilon_bits=epsilon_bits(epsilon), **kernels.attributes
        )
        return large(dx, layout), *(statistic(part, layout) for part in sums)

    def plain(layout: Layout) -> tuple[Tensor, ...]:
        return fused.gradients(composed, dy, x, center, offset, variance, scale, epsilon, layout)

    return native_or_composed(x, layout, native, plain)


def layout_of(x: Tensor, bounds: Sequence[int], ghost_order: int, ghost_size: int, **_: Any) -> Layout:
    """The layout that an op's attributes describe, for its x."""
    kept = [*range(bounds[1], bounds[2]), *range(bounds[3], bounds[4])]
    if not ghost_size:
        return plan_layout(ops.shape(x), kept)
    order = GHOST_ORDERS[ghost_order]
    kept.remove(1 if order == "interleaved" else 0)
    return plan_layout(ops.shape(x), [axis - 1 for axis in kept], Ghost(ghost_size, order))


def epsilon_of(bits: int) -> float:
    """The double with these bits."""
    return struct.unpack("d", struct.pack("q", bits))[0]


def _spread(weights: Tensor, x: Tensor, layout: Layout) -> Tensor:
    """Weights over all positions."""
    return ops.broadcast_to(ops.cast(weights, ops.stat_dtype(x)), layout.weight_shape)


def _known(values: Sequence[Tensor], layout: Layout) -> list[Tensor]:
    """Statistics as [G, C]; some arrive in a shape that only broadcasts to it."""
    return [ops.broadcast_to(value, (layout.ghosts, layout.channels)) for value in values]


def statistic(value: Tensor, layout: Layout) -> Tensor:
    return _shaped(value, (layout.ghosts, layout.channels))


def large(value: Tensor, layout: Layout) -> Tensor:
    return _shaped(value, layout.shape)


def _shaped(value: Tensor, shape: Sequence[Any]) -> Tensor:
    """The same tensor, after telling the graph what is known of its shape."""
    if not tf.executing_eagerly():
        value.set_shape([size if isinstance(size, int) else None for size in shape])
    return value


def epsilon_bits(epsilon: float) -> int:
    """A double as the integer of the same bits."""
    return struct.unpack("q", struct.pack("d", epsilon))[0]
