"""The NumPy engine on the CPU kernels (`csrc/`); the composed passes handle the rest.

They take float32, float64, float16 and ml_dtypes' bfloat16 in every layout that needs no permutation, and weights that
are the same for all channels. An array with gaps is copied first.
"""

from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from batchnorm._core.composed import Composed
from batchnorm._core.engine import Epilogue, GradTerms, Moments, Saved
from batchnorm._engines.numpy import ops
from batchnorm._engines.numpy.dispatch import find
from batchnorm._engines.numpy.reference import composed
from batchnorm._kernels import threads
from batchnorm.layout import Layout

__all__ = ["CpuKernels"]

Array = Any

_LINE = 64
# Large outputs start at a cache line, so that they can be written past the caches.
_ALIGNED = 1 << 20


@dataclass(frozen=True)
class CpuKernels(Composed[Any]):
    """Passes on the CPU kernels if these can be used, otherwise in NumPy's operations."""

    @property
    def composed(self) -> Composed[Any]:
        return composed

    def moments(self, x: Array, weights: Array | None, layout: Layout) -> Moments[Array]:
        """Mean and mean squared deviation over the reduced runs."""
        found = find(x, weights, layout)
        if found is None:
            return super().moments(x, weights, layout)
        native, kind, sizes, by_group = found
        spread = _spread(weights, x, layout)
        x, dtype = _dense(x), ops.stat_dtype(x)
        mean, rest, variance = (_statistics(layout, dtype) for _ in range(3))
        totals = np.empty((2, layout.ghosts, 1), dtype)
        native.moments(
            kind,
            sizes,
            _address(x),
            _address(spread),
            by_group,
            _address(totals[0]) if weights is not None else 0,
            _address(totals[1]) if weights is not None else 0,
            *map(_address, (mean, rest, variance)),
            threads(),
        )
        if weights is not None:
            return Moments(totals[0], totals[1], mean, variance, mean, rest)
        total = float(layout.count)
        return Moments(total, total, mean, variance, mean, rest)

    def apply(
        self,
        x: Array,
        mean: Array,
        scale: Array,
        shift: Array,
        layout: Layout,
        epilogue: Epilogue[Array] | None = None,
    ) -> Array:
        """(x − mean)·scale + shift, and what follows it."""
        found = find(x, None, layout)
        if found is None:
            return super().apply(x, mean, scale, shift, layout, epilogue)
        native, kind, sizes, _ = found
        x = _dense(x)
        y = _like(x)
        known = [_known(value, x, layout) for value in (mean, scale, shift)]
        read = _address(x), *map(_address, known)
        _residual, after = _after(native, epilogue, x)
        native.apply(kind, sizes, *read, _address(y), threads(), after)
        return y

    def grad_sums(self, dy: Array, x: Array, mean: Array, layout: Layout) -> tuple[Array, Array]:
        """Σdy and Σdy·(x − mean)."""
        found = find(x, None, layout)
        if found is None:
            return super().grad_sums(dy, x, mean, layout)
        native, kind, sizes, _ = found
        x, dtype = _dense(x), ops.stat_dtype(x)
        dy, mean = _dense(ops.cast(dy, x.dtype)), _known(mean, x, layout)
        first, second = _statistics(layout, dtype), _statistics(layout, dtype)
        native.grad_sums(kind, sizes, *map(_address, (dy, x, mean, first, second)), threads())
        return first, second

    def pulled_sums(
        self, dy: Array, x: Array, mean: Array, layout: Layout, epilogue: Epilogue[Array], keep: bool
    ) -> tuple[Array, Array, Array | None]:
        """Σh and Σh·(x − mean), and h if it is to be kept."""
        found = find(x, None, layout)
        if found is None:
            return super().pulled_sums(dy, x, mean, layout, epilogue, keep)
        native, kind, sizes, _ = found
        x, dtype = _dense(x), ops.stat_dtype(x)
        dy, pulled = _dense(ops.cast(dy, x.dtype)), _like(x) if keep else None
        mean, *known = (_known(value, x, layout) for value in (mean, epilogue.scale, epilogue.shift))
        first, second = _statistics(layout, dtype), _statistics(layout, dtype)
        _residual, after = _after(native, epilogue, x)
        more = after, *map(_address, (*known, pulled))
        native.grad_sums(kind, sizes, *map(_address, (dy, x, mean, first, second)), threads(), *more)
        return first, second, pulled

    def grad_input(
        self,
        dy: Array,
        x: Array,
        weights: Array | None,
        mean: Array,
        terms: GradTerms[Array],
        layout: Layout,
        epilogue: Epilogue[Array] | None = None,
    ) -> Array:
        """slope·h + w·(tilt·(x − mean) + offset)."""
        found = find(x, weights, layout)
        if found is None:
            return super().grad_input(dy, x, weights, mean, terms, layout, epilogue)
        native, kind, sizes, by_group = found
        spread = _spread(weights, x, layout)
        x = _dense(x)
        dy, dx = _dense(ops.cast(dy, x.dtype)), _like(x)
        known = [_known(value, x, layout) for value in (mean, *terms)]
        shift = None if epilogue is None else _known(epilogue.shift, x, layout)
        _, after = _after(native, epilogue, x)
        native.grad_input(
            kind,
            sizes,
            _address(dy),
            _address(x),
            _address(spread),
            by_group,
            *map(_address, known),
            _address(dx),
            threads(),
            after,
            _address(shift),
        )
        return dx

    def fused_train(
        self,
        x: Array,
        gamma: Array | None,
        beta: Array | None,
        epsilon: float,
        layout: Layout,
        epilogue: Epilogue[Array] | None = None,
    ) -> tuple[Array, Moments[Array], Array] | None:
        """y, the moments and the scale in one call; None without kernels."""
        found = find(x, None, layout)
        if found is None:
            return None
        native, kind, sizes, _ = found
        x, dtype = _dense(x), ops.stat_dtype(x)
        _residual, after = _after(native, epilogue, x)
        y, (mean, rest, variance, scale) = _like(x), (_statistics(layout, dtype) for _ in range(4))
        gamma, beta = (None if value is None else _dense(ops.cast(value, dtype)) for value in (gamma, beta))
        native.train(
            kind,
            sizes,
            *map(_address, (x, gamma, beta)),
            layout.channels,
            float(epsilon),
            *map(_address, (y, mean, rest, variance, scale)),
            threads(),
            after,
        )
        total = float(layout.count)
        return y, Moments(total, total, mean, variance, mean, rest), scale

    def fused_gradients(
        self,
        dy: Array,
        x: Array,
        saved: Saved[Array],
        epsilon: float,
        layout: Layout,
        epilogue: Epilogue[Array] | None = None,
    ) -> tuple[Array, Array, Array, Array | None] | None:
        """dx, Σh, Σh·x̂ and the gradient of a residual in one call; None without kernels."""
        found = find(x, None, layout)
        if found is None:
            return None
        native, kind, sizes, _ = found
        x, dtype = _dense(x), ops.stat_dtype(x)
        pulled = None if epilogue is None or epilogue.residual is None else _like(x)
        _residual, after = _after(native, epilogue, x)
        shift = None if epilogue is None else _known(epilogue.shift, x, layout)
        dy, dx = _dense(ops.cast(dy, x.dtype)), _like(x)
        first, second = _statistics(layout, dtype), _statistics(layout, dtype)
        statistics = (saved.center, saved.offset, saved.variance, saved.scale)
        known = [_known(value, x, layout) for value in statistics]
        native.gradients(
            kind,
            sizes,
            *map(_address, (dy, x, *known)),
            float(epsilon),
            *map(_address, (dx, first, second)),
            threads(),
            after,
            *map(_address, (shift, pulled)),
        )
        return dx, first, second, pulled

    def fused_infer(
        self,
        x: Array,
        gamma: Array | None,
        beta: Array | None,
        mean: Array,
        variance: Array,
        epsilon: float,
        layout: Layout,
        epilogue: Epilogue[Array] | None = None,
    ) -> Array | None:
        """Normalization by given statistics in one call; None without kernels."""
        found = find(x, None, layout)
        if found is None:
            return None
        native, kind, sizes, _ = found
        x, dtype = _dense(x), ops.stat_dtype(x)
        _residual, after = _after(native, epilogue, x)
        y = _like(x)
        gamma, beta = (None if value is None else _dense(ops.cast(value, dtype)) for value in (gamma, beta))
        known = [_known(value, x, layout) for value in (mean, variance)]
        native.infer(
            kind,
            sizes,
            *map(_address, (x, gamma, beta)),
            layout.channels,
            *map(_address, known),
            float(epsilon),
            _address(y),
            threads(),
            after,
        )
        return y


def _spread(weights: Array | None, x: Array, layout: Layout) -> Array | None:
    """Weights over all positions."""
    if weights is None:
        return None
    return _dense(np.broadcast_to(ops.cast(weights, ops.stat_dtype(x)), layout.weight_shape))


def _after(native: Any, epilogue: Epilogue[Array] | None, x: Array) -> tuple[Array | None, Any]:
    """The dense residual, which must outlive the call, and an epilogue as the compiled functions take it."""
    if epilogue is None:
        return None, None
    name, slope = ("identity", 0.0) if epilogue.activation is None else astuple(epilogue.activation)
    residual = None if epilogue.residual is None else _dense(ops.cast(epilogue.residual, x.dtype))
    return residual, (native.ACTIVATIONS[name], slope, _address(residual))


def _known(value: Array, x: Array, layout: Layout) -> Array:
    """A statistic as a dense array [G, C]."""
    value = ops.cast(value, ops.stat_dtype(x))
    return _dense(np.broadcast_to(value, (layout.ghosts, layout.channels)))


def _statistics(layout: Layout, dtype: Any) -> Array:
    return np.empty((layout.ghosts, layout.channels), dtype)


def _dense(x: Array) -> Array:
    return np.ascontiguousarray(x)


def _like(x: Array) -> Array:
    if x.nbytes < _ALIGNED:
        return np.empty(x.shape, x.dtype)
    room = np.empty(x.nbytes + _LINE, np.uint8)
    start = -_address(room) % _LINE
    return room[start : start + x.nbytes].view(x.dtype).reshape(x.shape)


def _address(array: Array | None) -> int:
    return 0 if array is None else array.__array_interface__["data"][0]
