"""The passes as ops on the CPU kernels (`csrc/`), or None if these cannot be used.

They are used wherever the process computes on its CPU alone and the layout needs no permutation, in eager and graph
mode, with known and unknown sizes. `_look` alone decides where they are not.
"""

import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from batchnorm._core import fused
from batchnorm._core.engine import GradTerms, Moments, Saved
from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.choice import either
from batchnorm._engines.tensorflow.compiled import is_confined, is_cpu, is_function, is_laid_open
from batchnorm._engines.tensorflow.plain import plain as composed
from batchnorm._kernels.axis_groups import WHY_NO_RUNS, kernel_runs, why_not_weights
from batchnorm._kernels.tensorflow import load, tell_threads, why_missing
from batchnorm.layout import Layout, plan_layout
from batchnorm.options import Ghost

__all__ = [
    "apply",
    "epsilon_of",
    "fused_gradients",
    "fused_train",
    "grad_input",
    "grad_sums",
    "layout_of",
    "moments",
    "plain_step",
    "why_not",
]

Tensor = Any

DTYPES = (tf.float32, tf.float64, tf.bfloat16, tf.float16)
# As the ops' attribute tells them; 0 stands for no ghost batches.
GHOST_ORDERS: dict[int, Literal["contiguous", "interleaved"]] = {1: "contiguous", 2: "interleaved"}


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
        total, effective, *statistics = kernels.ops.batchnorm_kernels_moments(
            x,
            [] if spread is None else [spread],
            U=dtype,
            weights_by_group=int(spread is not None and bool(kernels.by_group)),
            **kernels.attributes,
        )
        statistics = tuple(_statistic(value, layout) for value in statistics)
        return statistics if spread is None else (*statistics, total, effective)

    def plain(layout: Layout) -> tuple[Tensor, ...]:
        total, effective, _, variance, center, offset = composed.moments(x, weights, layout)
        statistics = (center, offset, variance)
        return statistics if spread is None else (*statistics, total, effective)

    center, offset, variance, *totals = either(x, layout, native, plain)
    total, effective = totals or [ops.as_float(layout.count, dtype)] * 2
    return Moments(total, effective, center + offset, variance, center, offset)


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

    return either(x, layout, native, lambda layout: composed.apply(x, mean, scale, shift, layout))


def grad_sums(dy: Tensor, x: Tensor, mean: Tensor, layout: Layout) -> tuple[Tensor, Tensor] | None:
    """Σdy and Σdy·(x − mean)."""
    kernels = _find(x, layout)
    if kernels is None:
        return None
    (mean,) = _known((mean,), layout)

    def native(layout: Layout) -> tuple[Tensor, ...]:
        sums = kernels.ops.batchnorm_kernels_grad_sums(dy, x, mean, **kernels.attributes)
        return tuple(_statistic(part, layout) for part in sums)

    return either(x, layout, native, lambda layout: composed.grad_sums(dy, x, mean, layout))


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
        lambda layout: composed.grad_input(dy, x, weights, mean, GradTerms(*known), layout),
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
        y, moments, scale = fused.train(composed, x, gamma, beta, epsilon, layout)
        return y, moments.center, moments.offset, moments.variance, scale

    y, center, offset, variance, scale = either(x, layout, native, plain)
    total = ops.as_float(layout.count, dtype)
    return y, Moments(total, total, center + offset, variance, center, offset), scale


def fused_gradients(
    dy: Tensor, x: Tensor, saved: Saved[Tensor], epsilon: float, layout: Layout
) -> tuple[Tensor, Tensor, Tensor] | None:
    """dx, Σdy and Σdy·x̂ in one call."""
    kernels = _find(x, layout)
    if kernels is None:
        return None
    statistics = (saved.center, saved.offset, saved.variance, saved.scale)
    center, offset, variance, scale = known = _known(statistics, layout)

    def native(layout: Layout) -> tuple[Tensor, ...]:
        dx, *sums = kernels.ops.batchnorm_kernels_gradients(
            dy, x, *known, epsilon_bits=_bits(epsilon), **kernels.attributes
        )
        return _large(dx, layout), *(_statistic(part, layout) for part in sums)

    def plain(layout: Layout) -> tuple[Tensor, ...]:
        return fused.gradients(composed, dy, x, center, offset, variance, scale, epsilon, layout)

    return either(x, layout, native, plain)


def plain_step(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, layout: Layout
) -> tuple[Tensor, Tensor, Tensor] | None:
    """y, and the mean and variance of each channel, in one op of a TensorFlow 1 graph; its gradient is registered."""
    if tf.executing_eagerly() or is_function() or layout.ghosts != 1:
        return None
    kernels = _find(x, layout)
    if kernels is None:
        return None
    done = kernels.ops.batchnorm_kernels_train(
        x,
        [] if gamma is None else [gamma],
        [] if beta is None else [beta],
        U=ops.stat_dtype(x),
        epsilon_bits=_bits(epsilon),
        **kernels.attributes,
    )
    mean, variance = (
        tf.raw_ops.Squeeze(input=_statistic(value, layout), axis=[0]) for value in (done.mean, done.variance)
    )
    return _large(done.y, layout), mean, variance


def _plain_gradient(op: Any, dy: Tensor, *_: Tensor) -> Any:
    """The gradient of `plain_step`. The statistics have none, as they feed nothing but the moving averages."""
    attributes = {name: op.get_attr(name) for name in ("bounds", "ghost_order", "ghost_size", "epsilon_bits")}
    # A derivative of this gradient can reach into the graph of the gradient, but no further.
    x, *parameters = (_here(value) for value in op.inputs)
    with_gamma = bool(op.get_attr("gamma_types"))
    with_beta = len(parameters) > with_gamma

    def first_order(dy: Tensor, x: Tensor, *parameters: Tensor) -> Any:
        dx, *sums = load().batchnorm_kernels_gradients(dy, x, *op.outputs[1:], **attributes)
        dbeta, dgamma = (tf.raw_ops.Squeeze(input=value, axis=[0]) for value in sums)
        found = [dx, *([dgamma] if with_gamma else []), *([dbeta] if with_beta else [])]
        return found, lambda *upstream: second_order(upstream, dy, x, *parameters)

    def second_order(upstream: Sequence[Tensor], *sources: Tensor) -> list[Tensor | None]:
        dy, x, *parameters = sources = tuple(tf.identity(source) for source in sources)
        rest = list(parameters)
        gamma = rest.pop(0) if with_gamma else None
        beta = rest.pop(0) if with_beta else None
        layout, epsilon = layout_of(x, **attributes), epsilon_of(attributes["epsilon_bits"])
        _, moments, scale = fused.train(composed, x, gamma, beta, epsilon, layout)
        known = moments.center, moments.offset, moments.variance, scale
        dx, dbeta, dgamma = fused.gradients(composed, dy, x, *known, epsilon, layout)
        sums = [*([dgamma] if with_gamma else []), *([dbeta] if with_beta else [])]
        targets = [dx, *(ops.reshape(value, (layout.channels,)) for value in sums)]
        return tf.gradients(targets, list(sources), grad_ys=list(upstream))

    found = tf.custom_gradient(first_order)(dy, x, *parameters)
    return list(found) if isinstance(found, (list, tuple)) else [found]


# A second registration fails if this module is reloaded.
with suppress(KeyError):
    tf.RegisterGradient("BatchnormKernelsTrain")(_plain_gradient)


def layout_of(x: Tensor, bounds: Sequence[int], ghost_order: int, ghost_size: int, **_: Any) -> Layout:
    """The layout that an op's attributes describe, for its x."""
    kept = [*range(bounds[1], bounds[2]), *range(bounds[3], bounds[4])]
    if not ghost_size:
        return plan_layout(ops.shape(x), kept)
    order = GHOST_ORDERS[ghost_order]
    kept.remove(1 if order == "interleaved" else 0)
    return plan_layout(ops.shape(x), [axis - 1 for axis in kept], Ghost(ghost_size, order))


def _ghost_attributes(ghost: Ghost | None) -> dict[str, int]:
    if ghost is None:
        return {"ghost_order": 0, "ghost_size": 0}
    (order,) = (number for number, name in GHOST_ORDERS.items() if name == ghost.order)
    return {"ghost_order": order, "ghost_size": ghost.size}


def epsilon_of(bits: int) -> float:
    """The double with these bits."""
    return struct.unpack("d", struct.pack("q", bits))[0]


def _here(value: Tensor) -> Tensor:
    """The same, as a tensor of the graph that is being built."""
    return value if value.graph is tf.compat.v1.get_default_graph() else tf.identity(value)


def _find(x: Tensor, layout: Layout) -> _Kernels | None:
    """The kernels for x, or None if they cannot be used."""
    eager = tf.executing_eagerly()
    found = _look(x, layout, eager)
    if isinstance(found, str):
        return None
    tell_threads(computing=eager)
    return found


def why_not(x: Tensor, weights: Tensor | None, layout: Layout) -> str | None:
    """Why the kernels cannot be used, in a few words; None if they can."""
    found = _look(x, layout, tf.executing_eagerly())
    if isinstance(found, str):
        return found
    return None if weights is None else why_not_weights(ops.shape(weights), layout, found.by_group)


def _look(x: Tensor, layout: Layout, eager: bool) -> _Kernels | str:
    """The kernels for x, or why they cannot be used."""
    kernels = load()
    if kernels is None:
        return f"they are {why_missing()}"
    if x.dtype not in DTYPES:
        return f"they have no {x.dtype.name}"
    if not is_cpu():
        return "this process may compute on an accelerator, and they work in the CPU's memory"
    runs = kernel_runs(layout)
    if runs is None:
        return WHY_NO_RUNS
    if not eager:
        why = _why_no_ops()
        if why is not None:
            return why
    attributes = {"bounds": runs.bounds, **_ghost_attributes(layout.ghost)}
    return _Kernels(kernels, attributes, runs.by_group)


def _why_no_ops() -> str | None:
    """Why the graph being built may not hold ops that only our package knows; None if it may."""
    if is_confined():
        return "what is being built is compiled by XLA, or is a loop of TensorFlow 1"
    if is_laid_open():
        return "in a condition inside a layer of Keras 2, TensorFlow differentiates each op, and ours have no gradients"
    if isinstance(tf.distribute.get_strategy(), tf.distribute.ParameterServerStrategy):
        return "other processes of a parameter server run what is being built, and may not have them"
    return None


def _spread(weights: Tensor, x: Tensor, layout: Layout, kernels: _Kernels) -> Tensor | None:
    """Weights over all positions; None if they differ between channels, or along a part of the second run."""
    if why_not_weights(ops.shape(weights), layout, kernels.by_group) is not None:
        return None
    return ops.broadcast_to(ops.cast(weights, ops.stat_dtype(x)), layout.weight_shape)


def _known(values: Sequence[Tensor], layout: Layout) -> list[Tensor]:
    """Statistics as [G, C]; some arrive in a shape that only broadcasts to it."""
    return [ops.broadcast_to(value, (layout.ghosts, layout.channels)) for value in values]


def _statistic(value: Tensor, layout: Layout) -> Tensor:
    return _shaped(value, (layout.ghosts, layout.channels))


def _large(value: Tensor, layout: Layout) -> Tensor:
    return _shaped(value, layout.shape)


def _shaped(value: Tensor, shape: Sequence[Any]) -> Tensor:
    """The same tensor, after telling the graph what is known of its shape."""
    if not tf.executing_eagerly():
        value.set_shape([size if isinstance(size, int) else None for size in shape])
    return value


def _bits(epsilon: float) -> int:
    """A double as the integer of the same bits."""
    return struct.unpack("q", struct.pack("d", epsilon))[0]
