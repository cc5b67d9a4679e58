"""The passes as ops on the CPU kernels (`csrc/`), where these can go; None elsewhere.

They go wherever the process computes on its CPU alone and the layout needs no permutation, in eager and graph mode,
with known and unknown sizes. Where they do not go is decided in `_look` alone.
"""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from batchnorm._engines import composed, steps
from batchnorm._engines.composed import Composed
from batchnorm._engines.protocol import GradTerms, Moments, Saved
from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.choice import either, ghosts_of
from batchnorm._engines.tensorflow.compiled import is_branch, is_confined, is_cpu
from batchnorm._engines.tensorflow.differentiable import differentiable
from batchnorm._engines.tensorflow.replicas import sum_over_replicas
from batchnorm._kernels.runs import WHY_NO_RUNS, kernel_runs, why_not_weights
from batchnorm._kernels.tensorflow import load, tell_threads, why_missing
from batchnorm.layout import Layout

__all__ = [
    "apply",
    "fused_gradients",
    "fused_train",
    "grad_input",
    "grad_sums",
    "moments",
    "why_not",
]

Tensor = Any

# A module has the functions that the protocol asks for, with narrower types.
_ops: Any = ops
# What the two ops of a whole step stand for.
_plain: Composed[Any] = Composed(_ops, differentiable, sum_over_replicas)
DTYPES = (tf.float32, tf.float64, tf.bfloat16, tf.float16)


class _Kernels(NamedTuple):
    """The ops, and the attributes by which they find the runs of a layout in any shape."""

    ops: Any
    attributes: dict[str, Any]
    by_group: bool | None


def moments(x: Tensor, weights: Tensor | None, layout: Layout) -> Moments[Tensor] | None:
    """Mean and mean squared deviation over the reduced runs."""
    kernels, spread = _find(x, layout), None
    if kernels is not None and weights is not None:
        spread = _spread(weights, x, layout, kernels)
        kernels = None if spread is None else kernels
    if kernels is None:
        return None
    dtype = ops.stat_dtype(x)

    def native(layout: Layout) -> tuple[Tensor, ...]:
        total, effective, mean, variance = kernels.ops.batchnorm_kernels_moments(
            x,
            [] if spread is None else [spread],
            U=dtype,
            weights_by_group=int(spread is not None and bool(kernels.by_group)),
            **kernels.attributes,
        )
        statistics = (_statistic(mean, layout), _statistic(variance, layout))
        return statistics if spread is None else (*statistics, total, effective)

    def plain(layout: Layout) -> tuple[Tensor, ...]:
        total, effective, mean, variance = composed.moments(_ops, x, weights, layout)
        return (mean, variance) if spread is None else (mean, variance, total, effective)

    mean, variance, *totals = either(x, layout, native, plain)
    total, effective = totals or [ops.as_float(layout.count, dtype)] * 2
    return Moments(total, effective, mean, variance)


def apply(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, layout: Layout) -> Tensor | None:
    """(x − mean)·scale + shift."""
    kernels = _find(x, layout)
    if kernels is None:
        return None
    mean, scale, shift = _known((mean, scale, shift), layout)

    def native(layout: Layout) -> Tensor:
        return _large(
            kernels.ops.batchnorm_kernels_apply(x, mean, scale, shift, **kernels.attributes), layout
        )

    return either(x, layout, native, lambda layout: composed.apply(_ops, x, mean, scale, shift, layout))


def grad_sums(dy: Tensor, x: Tensor, mean: Tensor, layout: Layout) -> tuple[Tensor, Tensor] | None:
    """Σdy and Σdy·(x − mean)."""
    kernels = _find(x, layout)
    if kernels is None:
        return None
    (mean,) = _known((mean,), layout)

    def native(layout: Layout) -> tuple[Tensor, ...]:
        sums = kernels.ops.batchnorm_kernels_grad_sums(dy, x, mean, **kernels.attributes)
        return tuple(_statistic(part, layout) for part in sums)

    return either(x, layout, native, lambda layout: composed.grad_sums(_ops, dy, x, mean, layout))


def grad_input(
    dy: Tensor, x: Tensor, weights: Tensor | None, mean: Tensor, terms: GradTerms[Tensor], layout: Layout
) -> Tensor | None:
    """slope·dy + w·(tilt·(x − mean) + offset)."""
    kernels, spread = _find(x, layout), None
    if kernels is not None and weights is not None:
        spread = _spread(weights, x, layout, kernels)
        kernels = None if spread is None else kernels
    if kernels is None:
        return None
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
        return _large(dx, layout)

    return either(
        x,
        layout,
        native,
        lambda layout: composed.grad_input(_ops, dy, x, weights, mean, GradTerms(*known), layout),
    )


def fused_train(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, layout: Layout
) -> tuple[Tensor, Moments[Tensor], Tensor] | None:
    """y, the moments and the scale in one call."""
    kernels = _find(x, layout)
    if kernels is None:
        return None
    dtype = ops.stat_dtype(x)

    def native(layout: Layout) -> tuple[Tensor, ...]:
        y, *statistics = kernels.ops.batchnorm_kernels_train(
            x,
            [] if gamma is None else [gamma],
            [] if beta is None else [beta],
            U=dtype,
            epsilon_bits=_bits(epsilon),
            **kernels.attributes,
        )
        return _large(y, layout), *(_statistic(value, layout) for value in statistics)

    def plain(layout: Layout) -> tuple[Tensor, ...]:
        y, moments, scale = steps.train(_plain, x, gamma, beta, epsilon, layout)
        return y, moments.mean, moments.variance, scale

    y, mean, variance, scale = either(x, layout, native, plain)
    total = ops.as_float(layout.count, dtype)
    return y, Moments(total, total, mean, variance), scale


def fused_gradients(
    dy: Tensor, x: Tensor, saved: Saved[Tensor], epsilon: float, layout: Layout
) -> tuple[Tensor, Tensor, Tensor] | None:
    """dx, Σdy and Σdy·x̂ in one call."""
    kernels = _find(x, layout)
    if kernels is None:
        return None
    mean, variance, scale = known = _known((saved.mean, saved.variance, saved.scale), layout)

    def native(layout: Layout) -> tuple[Tensor, ...]:
        dx, *sums = kernels.ops.batchnorm_kernels_gradients(
            dy, x, *known, epsilon_bits=_bits(epsilon), **kernels.attributes
        )
        return _large(dx, layout), *(_statistic(part, layout) for part in sums)

    def plain(layout: Layout) -> tuple[Tensor, ...]:
        return steps.gradients(_plain, dy, x, mean, variance, scale, epsilon, layout)

    return either(x, layout, native, plain)


def _find(x: Tensor, layout: Layout) -> _Kernels | None:
    """The kernels for x, or None where they cannot go."""
    eager = tf.executing_eagerly()
    found = _look(x, layout, eager)
    if isinstance(found, str):
        return None
    tell_threads(computing=eager)
    return found


def why_not(x: Tensor, weights: Tensor | None, layout: Layout) -> str | None:
    """Why the kernels cannot go, in a few words; None where they can."""
    found = _look(x, layout, tf.executing_eagerly())
    if isinstance(found, str):
        return found
    return None if weights is None else why_not_weights(ops.shape(weights), layout, found.by_group)


def _look(x: Tensor, layout: Layout, eager: bool) -> _Kernels | str:
    """The kernels for x, or why they cannot go."""
    kernels = load()
    if kernels is None:
        return f"they are {why_missing()}"
    if x.dtype not in DTYPES:
        return f"they have no {x.dtype.name}"
    if not is_cpu():
        return "this process may compute on an accelerator, and they take the CPU's memory"
    runs = kernel_runs(layout)
    if runs is None:
        return WHY_NO_RUNS
    if not eager:
        why = _why_no_ops()
        if why is not None:
            return why
    order, size = ghosts_of(layout)
    attributes = {"bounds": runs.bounds, "ghost_order": order, "ghost_size": size}
    return _Kernels(kernels, attributes, runs.by_group)


def _why_no_ops() -> str | None:
    """Why the graph being built may not hold ops that only our package knows; None where it may."""
    if is_confined():
        return "what is being built is compiled by XLA, or is a loop of TensorFlow 1"
    if is_branch():
        # Such a graph serves inference as well, and whoever loads it then may not have our package.
        return "what is being built is one side of a condition, so that the graph may serve inference"
    if isinstance(tf.distribute.get_strategy(), tf.distribute.ParameterServerStrategy):
        return "other processes of a parameter server run what is being built, and may not have them"
    return None


def _spread(weights: Tensor, x: Tensor, layout: Layout, kernels: _Kernels) -> Tensor | None:
    """Weights over all positions; None where they differ between channels, or along a part of the second run."""
    if why_not_weights(ops.shape(weights), layout, kernels.by_group) is not None:
        return None
    return ops.broadcast_to(ops.cast(weights, ops.stat_dtype(x)), layout.weight_shape)


def _known(values: Sequence[Tensor], layout: Layout) -> list[Tensor]:
    """Statistics as [G, C], which some only broadcast to."""
    return [ops.broadcast_to(value, (layout.ghosts, layout.channels)) for value in values]


def _statistic(value: Tensor, layout: Layout) -> Tensor:
    return _shaped(value, (layout.ghosts, layout.channels))


def _large(value: Tensor, layout: Layout) -> Tensor:
    return _shaped(value, layout.shape)


def _shaped(value: Tensor, shape: Sequence[Any]) -> Tensor:
    """The same tensor, with what is known of its shape told to the graph."""
    if not tf.executing_eagerly():
        value.set_shape([size if isinstance(size, int) else None for size in shape])
    return value


def _bits(epsilon: float) -> int:
    """A double as the integer of the same bits."""
    return struct.unpack("q", struct.pack("d", epsilon))[0]
