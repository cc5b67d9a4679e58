"""The four passes written once, in a framework's own operations: the answer wherever no kernel can go.

Each function takes the framework's `ops` first. Everything is done in the view that the layout plans, in the
statistics' dtype; every mean is subtracted before anything is squared or scaled, so that a large mean costs no digits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

from batchnorm._engines.protocol import A, GradTerms, Inputs, Moments, Ops, Saved
from batchnorm.layout import Layout

__all__ = [
    "Composed",
    "apply",
    "finite",
    "grad_input",
    "grad_sums",
    "grad_weights",
    "moments",
    "share",
    "to_view",
]


@dataclass(frozen=True)
class Composed(Generic[A]):
    """An engine without shortcuts: the four passes below over one framework's `ops`."""

    ops: Ops[A]
    differentiable: Callable[..., Any]
    sum_over_replicas: Callable[[tuple[A, ...]], tuple[A, ...]]

    @property
    def composed(self) -> "Composed[A]":
        return self

    def suited(self, layout: Layout, inputs: Inputs[A]) -> None:
        return None

    def moments(self, x: A, weights: A | None, layout: Layout) -> Moments[A]:
        return moments(self.ops, x, weights, layout)

    def apply(self, x: A, mean: A, scale: A, shift: A, layout: Layout) -> A:
        return apply(self.ops, x, mean, scale, shift, layout)

    def grad_sums(self, dy: A, x: A, mean: A, layout: Layout) -> tuple[A, A]:
        return grad_sums(self.ops, dy, x, mean, layout)

    def grad_input(self, dy: A, x: A, weights: A | None, mean: A, terms: GradTerms[A], layout: Layout) -> A:
        return grad_input(self.ops, dy, x, weights, mean, terms, layout)

    def grad_weights(self, x: A, weights: A, mean: A, variance: A, terms: GradTerms[A], layout: Layout) -> A:
        return grad_weights(self.ops, x, weights, mean, variance, terms, layout)

    def fused_train(
        self, x: A, gamma: A | None, beta: A | None, epsilon: float, layout: Layout
    ) -> tuple[A, Moments[A], A] | None:
        return None

    def fused_gradients(
        self, dy: A, x: A, saved: Saved[A], epsilon: float, layout: Layout
    ) -> tuple[A, A, A] | None:
        return None

    def fused_infer(
        self, x: A, gamma: A | None, beta: A | None, mean: A, variance: A, epsilon: float, layout: Layout
    ) -> A | None:
        return None


def moments(ops: Ops[A], x: A, weights: A | None, layout: Layout) -> Moments[A]:
    """Mean and mean squared deviation over the reduced runs, weighted where weights are given."""
    dtype = ops.stat_dtype(x)
    viewed = ops.cast(to_view(ops, x, layout), dtype)
    if weights is None:
        total = ops.as_float(layout.count, dtype)
        portion = share(ops, total)
        mean = ops.sum(viewed, layout.reduced) * portion
        centered = viewed - _against(ops, mean, layout)
        # The first mean is off by rounding; the mean of what is left corrects it, and the variance with it.
        rest = ops.sum(centered, layout.reduced) * portion
        variance = ops.maximum(ops.sum(centered * centered, layout.reduced) * portion - rest * rest, 0.0)
        mean = mean + finite(ops, rest)
        return Moments(total, total, _grouped(ops, mean, layout), _grouped(ops, variance, layout))
    w = _weight_view(ops, weights, layout, dtype)
    total = ops.sum(w, layout.reduced)
    portion = ops.where(total > 0.0, 1.0 / ops.where(total > 0.0, total, 1.0), 0.0)
    mean = ops.sum(w * viewed, layout.reduced) * portion
    centered = viewed - _against(ops, mean, layout)
    weighted = w * centered
    rest = ops.sum(weighted, layout.reduced) * portion
    variance = ops.maximum(ops.sum(weighted * centered, layout.reduced) * portion - rest * rest, 0.0)
    square = ops.sum(w * w, layout.reduced)
    count = ops.where(total > 0.0, total * total / ops.where(total > 0.0, square, 1.0), 0.0)
    grouped = [_grouped(ops, value, layout) for value in (mean + finite(ops, rest), variance)]
    # [G, 1] where the weights are the same for all channels
    shape = (layout.ghosts, layout.channels if _per_channel(ops, weights, layout) else 1)
    return Moments(ops.reshape(total, shape), ops.reshape(count, shape), *grouped)


def share(ops: Ops[A], count: A | float) -> A | float:
    """1 / count. An empty batch divides by one: its moments then mean nothing but stay finite."""
    return 1.0 / (max(count, 1.0) if isinstance(count, (int, float)) else ops.maximum(count, 1.0))


def apply(ops: Ops[A], x: A, mean: A, scale: A, shift: A, layout: Layout) -> A:
    """(x − mean)·scale + shift."""
    dtype = ops.stat_dtype(x)
    viewed = ops.cast(to_view(ops, x, layout), dtype)
    mean, scale, shift = (_against(ops, value, layout) for value in (mean, scale, shift))
    return _from_view(ops, ops.cast((viewed - mean) * scale + shift, ops.dtype(x)), layout)


def grad_sums(ops: Ops[A], dy: A, x: A, mean: A, layout: Layout) -> tuple[A, A]:
    """Σdy and Σdy·(x − mean)."""
    dtype = ops.stat_dtype(x)
    dy, x = (ops.cast(to_view(ops, value, layout), dtype) for value in (dy, x))
    first = ops.sum(dy, layout.reduced)
    second = ops.sum(dy * (x - _against(ops, mean, layout)), layout.reduced)
    return _grouped(ops, first, layout), _grouped(ops, second, layout)


def grad_input(
    ops: Ops[A], dy: A, x: A, weights: A | None, mean: A, terms: GradTerms[A], layout: Layout
) -> A:
    """slope·dy + w·(tilt·(x − mean) + offset)."""
    dtype = ops.stat_dtype(x)
    dy, viewed = (ops.cast(to_view(ops, value, layout), dtype) for value in (dy, x))
    mean, slope, tilt, offset = (_against(ops, value, layout) for value in (mean, *terms))
    pulled = tilt * (viewed - mean) + offset
    if weights is not None:
        pulled = _weight_view(ops, weights, layout, dtype) * pulled
    return _from_view(ops, ops.cast(slope * dy + pulled, ops.dtype(x)), layout)


def grad_weights(
    ops: Ops[A], x: A, weights: A, mean: A, variance: A, terms: GradTerms[A], layout: Layout
) -> A:
    """Σ offset·(x − mean) + ½·tilt·((x − mean)² − variance), over all that a weight was broadcast along."""
    viewed = ops.cast(to_view(ops, x, layout), ops.stat_dtype(x))
    mean, variance, tilt, offset = (
        _against(ops, v, layout) for v in (mean, variance, terms.tilt, terms.offset)
    )
    centered = viewed - mean
    full = _from_view(ops, offset * centered + 0.5 * tilt * (centered * centered - variance), layout)
    shape = ops.shape(weights)
    spread = [axis for axis, size in enumerate(shape) if isinstance(size, int) and size == 1]
    return ops.cast(ops.reshape(ops.sum(full, spread), shape), ops.dtype(weights))


def to_view(ops: Ops[A], x: A, layout: Layout) -> A:
    """x in the layout's runs."""
    if layout.permutation is not None:
        x = ops.transpose(ops.reshape(x, layout.split), layout.permutation)
    return ops.reshape(x, layout.view)


def _from_view(ops: Ops[A], viewed: A, layout: Layout) -> A:
    if layout.permutation is not None:
        viewed = ops.reshape(viewed, [layout.split[axis] for axis in layout.permutation])
        viewed = ops.transpose(viewed, _inverse(layout.permutation))
    return ops.reshape(viewed, layout.shape)


def _inverse(order: tuple[int, ...]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def _against(ops: Ops[A], statistic: A, layout: Layout) -> A:
    return ops.reshape(statistic, layout.stat_view)


def _grouped(ops: Ops[A], statistic: A, layout: Layout) -> A:
    return ops.reshape(statistic, (layout.ghosts, layout.channels))


def finite(ops: Ops[A], value: A) -> A:
    """The value, or zero where it is infinite or not a number: an infinite mean needs no correction."""
    return ops.where(value - value > -1.0, value, 0.0)


def _weight_view(ops: Ops[A], weights: A, layout: Layout, dtype: Any) -> A:
    """Weights, of the rank of x and broadcasting to it, against the view."""
    weights = ops.cast(weights, dtype)
    if _per_channel(ops, weights, layout):
        return to_view(ops, ops.broadcast_to(weights, layout.shape), layout)
    weights = ops.broadcast_to(weights, layout.weight_shape)
    if layout.permutation is not None:
        weights = ops.transpose(ops.reshape(weights, layout.weight_split), layout.permutation)
    return ops.reshape(weights, layout.weight_view)


def _per_channel(ops: Ops[A], weights: A, layout: Layout) -> bool:
    shape = ops.shape(weights)
    return any(not (isinstance(shape[axis], int) and shape[axis] == 1) for axis in layout.axes)
