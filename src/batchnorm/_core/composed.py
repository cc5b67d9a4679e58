"""The four passes written once, in a framework's own operations: used wherever no kernel can be.

Each function takes the framework's `ops` first. Everything is done in the view that the layout plans, in the
statistics' dtype; every mean is subtracted before anything is squared or scaled, so that a large mean costs no digits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

from batchnorm._core.engine import A, Batch, Engine, Epilogue, GradTerms, Inputs, Moments, Ops, Saved
from batchnorm._core.epilogue import activate, pull
from batchnorm._core.moments import finite
from batchnorm.layout import Layout

__all__ = [
    "Composed",
    "apply",
    "finite",
    "grad_input",
    "grad_sums",
    "grad_weights",
    "moments",
    "pull_through",
    "share",
    "to_view",
    "weight_view",
]


@dataclass(frozen=True)
class Composed(Generic[A]):
    """An engine without shortcuts: the four passes below over one framework's `ops`.

    Attributes:
        ops: the framework's functions.
        differentiate: what the framework does for `differentiable`.
        add_up: what it does for `sum_over_replicas`.
    """

    ops: Ops[A]
    differentiate: Callable[..., Any]
    add_up: Callable[[tuple[A, ...]], tuple[A, ...]]

    @property
    def composed(self) -> "Composed[A]":
        return self

    def specialize(self, layout: Layout, inputs: Inputs[A]) -> "Engine[A] | None":
        return None

    def differentiable(
        self, forward: Any, backward: Any, reference: Any, forward_mode: Any
    ) -> Callable[[Inputs[A]], tuple[A, Batch[A]]]:
        return self.differentiate(forward, backward, reference, forward_mode)

    def sum_over_replicas(self, values: tuple[A, ...]) -> tuple[A, ...]:
        return self.add_up(values)

    def moments(self, x: A, weights: A | None, layout: Layout) -> Moments[A]:
        return moments(self.ops, x, weights, layout)

    def apply(
        self, x: A, mean: A, scale: A, shift: A, layout: Layout, epilogue: Epilogue[A] | None = None
    ) -> A:
        return apply(self.ops, x, mean, scale, shift, layout, epilogue)

    def grad_sums(self, dy: A, x: A, mean: A, layout: Layout) -> tuple[A, A]:
        return grad_sums(self.ops, dy, x, mean, layout)

    def pulled_sums(
        self, dy: A, x: A, mean: A, layout: Layout, epilogue: Epilogue[A], keep: bool
    ) -> tuple[A, A, A | None]:
        ops = self.ops
        pulled = pull_through(ops, dy, x, mean, layout, epilogue)
        # Kernels would round h to the dtype of x before they sum it.
        engine = self if ops.dtype(pulled) == ops.dtype(x) else self.composed
        return *engine.grad_sums(pulled, x, mean, layout), ops.cast(pulled, ops.dtype(x))

    def grad_input(
        self,
        dy: A,
        x: A,
        weights: A | None,
        mean: A,
        terms: GradTerms[A],
        layout: Layout,
        epilogue: Epilogue[A] | None = None,
    ) -> A:
        if epilogue is not None:
            dy = pull_through(self.ops, dy, x, mean, layout, epilogue)
        return grad_input(self.ops, dy, x, weights, mean, terms, layout)

    def grad_weights(
        self, x: A, weights: A, center: A, offset: A, variance: A, terms: GradTerms[A], layout: Layout
    ) -> A:
        return grad_weights(self.ops, x, weights, center, offset, variance, terms, layout)

    def fused_train(
        self,
        x: A,
        gamma: A | None,
        beta: A | None,
        epsilon: float,
        layout: Layout,
        epilogue: Epilogue[A] | None = None,
    ) -> tuple[A, Moments[A], A] | None:
        return None

    def fused_gradients(
        self,
        dy: A,
        x: A,
        saved: Saved[A],
        epsilon: float,
        layout: Layout,
        epilogue: Epilogue[A] | None = None,
    ) -> tuple[A, A, A, A | None] | None:
        return None

    def fused_infer(
        self,
        x: A,
        gamma: A | None,
        beta: A | None,
        mean: A,
        variance: A,
        epsilon: float,
        layout: Layout,
        epilogue: Epilogue[A] | None = None,
    ) -> A | None:
        return None


def moments(
    ops: Ops[A], x: A, weights: A | None, layout: Layout, near: Callable[[A, A | None], A] | None = None
) -> Moments[A]:
    """Mean and mean squared deviation over the reduced runs, weighted if weights are given.

    Args:
        near: for engines whose sums lose digits if the mean is far from zero: finds a number near each mean, given
            the view of x and the weights. These numbers are subtracted first.
    """
    dtype = ops.stat_dtype(x)
    viewed = ops.cast(to_view(ops, x, layout), dtype)
    if weights is None:
        w = alive = None
        total = effective = ops.as_float(layout.count, dtype)
        divisor = max(total, 1.0) if isinstance(total, (int, float)) else ops.maximum(total, 1.0)
    else:
        w = weight_view(ops, weights, layout, dtype)
        total, square = ops.sum(w, layout.reduced), ops.sum(w * w, layout.reduced)
        alive = total > 0.0
        divisor = ops.where(alive, total, 1.0)
        effective = ops.where(alive, total * total / ops.where(alive, square, 1.0), 0.0)
        # [G, 1] if the weights are the same for all channels
        shape = (layout.ghosts, layout.channels if _per_channel(ops, weights, layout) else 1)
        total, effective = ops.reshape(total, shape), ops.reshape(effective, shape)

    def average(values: A) -> A:
        # Divide: a compiler may fuse a product with the difference that follows, and so round it in two ways.
        found = ops.sum(values if w is None else w * values, layout.reduced) / divisor
        # Without any weight the sum is zero, but its derivative with respect to the weights is not.
        return found if alive is None else ops.where(alive, found, 0.0)

    start = None
    if near is not None:
        start = ops.stop_gradient(finite(ops, near(viewed, w)))
        viewed = viewed - _against(ops, start, layout)
    center = ops.stop_gradient(average(viewed))
    centered = viewed - _against(ops, center, layout)
    # The first mean has rounding error; the mean of the differences corrects it and the variance.
    offset = average(centered)
    variance = ops.maximum(average(centered * centered) - offset * offset, 0.0)
    offset = finite(ops, offset)
    if start is not None:
        center, offset = start, center + offset
    parts = (_grouped(ops, value, layout) for value in (center + offset, variance, center, offset))
    return Moments(total, effective, *parts)


def share(ops: Ops[A], count: A | float) -> A | float:
    """1 / count. An empty batch divides by one: its moments are then meaningless, but finite."""
    return 1.0 / (max(count, 1.0) if isinstance(count, (int, float)) else ops.maximum(count, 1.0))


def apply(
    ops: Ops[A], x: A, mean: A, scale: A, shift: A, layout: Layout, epilogue: Epilogue[A] | None = None
) -> A:
    """(x − mean)·scale + shift, and what follows it."""
    y = _affine(ops, x, mean, scale, shift, layout)
    if epilogue is not None:
        y = activate(ops, epilogue.activation, _plus(ops, y, epilogue.residual, layout))
    return _from_view(ops, ops.cast(y, ops.dtype(x)), layout)


def pull_through(ops: Ops[A], dy: A, x: A, mean: A, layout: Layout, epilogue: Epilogue[A]) -> A:
    """act′(u)·dy, in the statistics' dtype; the epilogue has an activation, scale and shift."""
    activation, residual, scale, shift = epilogue
    assert activation is not None
    assert scale is not None
    assert shift is not None
    u = _plus(ops, _affine(ops, x, mean, scale, shift, layout), residual, layout)
    pulled = pull(ops, activation, u, ops.cast(to_view(ops, dy, layout), ops.dtype(u)))
    return _from_view(ops, pulled, layout)


def _affine(ops: Ops[A], x: A, mean: A, scale: A, shift: A, layout: Layout) -> A:
    """(x − mean)·scale + shift as a view, in the statistics' dtype."""
    viewed = ops.cast(to_view(ops, x, layout), ops.stat_dtype(x))
    mean, scale, shift = (_against(ops, value, layout) for value in (mean, scale, shift))
    return (viewed - mean) * scale + shift


def _plus(ops: Ops[A], u: A, residual: A | None, layout: Layout) -> A:
    return u if residual is None else u + ops.cast(to_view(ops, residual, layout), ops.dtype(u))


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
    through_statistics = tilt * (viewed - mean) + offset
    if weights is not None:
        through_statistics = weight_view(ops, weights, layout, dtype) * through_statistics
    return _from_view(ops, ops.cast(slope * dy + through_statistics, ops.dtype(x)), layout)


def grad_weights(
    ops: Ops[A], x: A, weights: A, center: A, offset: A, variance: A, terms: GradTerms[A], layout: Layout
) -> A:
    """Σ terms.offset·(x − μ) + ½·tilt·((x − μ)² − variance), over everything that a weight was broadcast along."""
    viewed = ops.cast(to_view(ops, x, layout), ops.stat_dtype(x))
    center, offset, variance, tilt, base = (
        _against(ops, v, layout) for v in (center, offset, variance, terms.tilt, terms.offset)
    )
    centered = (viewed - center) - offset
    full = _from_view(ops, base * centered + 0.5 * tilt * (centered * centered - variance), layout)
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


def weight_view(ops: Ops[A], weights: A, layout: Layout, dtype: Any) -> A:
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
