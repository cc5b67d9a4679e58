"""Passes over large inputs that our ops cannot take: each is a function that XLA compiles, once per shape.

That is on machines without a C++ compiler, and for weights that differ between channels. One compiled loop reads each
array once, where TensorFlow's own operations read and write it once each. A function is compiled when its shapes first
appear and stays for the life of the process, so only a limited number of known shapes get one; all others take the same
functions uncompiled, and still gain from moments in one reading.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import tensorflow as tf

from batchnorm._core import composed as core
from batchnorm._core.engine import Epilogue, GradTerms, Moments
from batchnorm._core.moments import finite
from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.composed import PlainOperations, composed
from batchnorm.layout import Layout

__all__ = ["compiled"]

Tensor = Any
Function = Callable[..., Any]

# Bounds the cost to a program whose shapes never repeat: a function takes about 0.1 s to compile and 1.6 MB to keep.
MOST_FUNCTIONS = 128
# A sum of so many parts at once stays in registers.
PARTS = 8
# One number in sixteen, and of large groups about 256.
SPARSEST_SAMPLE = 16
LARGEST_SAMPLE = 256

_functions: dict[Any, Function] = {}


@dataclass(frozen=True)
class Compiled(PlainOperations):
    """The core's passes, each compiled; the moments in one reading."""

    def moments(self, x: Tensor, weights: Tensor | None, layout: Layout) -> Moments[Tensor]:
        """Mean and variance by the deviations from a center that is near the mean.

        With δ the mean deviation from the center c, μ = c + δ and σ² = mean (x − c)² − δ². As c is the mean of a
        sample of S numbers out of N, δ² ≤ σ²·N/S whatever the numbers, so that little is lost in the difference.
        An infinite mean is left to δ: from an infinite center every finite number would deviate by infinity.
        """
        dtype, shape = ops.stat_dtype(x), (layout.ghosts, layout.channels)
        if weights is None:
            total = effective = ops.as_float(layout.count, dtype)
            portion = core.share(ops, total)
            center = _sample_mean(x, layout, dtype)
        else:
            # No sample: all numbers that have weight might be outside it.
            *totals, weighted = _run(_weigh, layout, x, weights)
            # [G, 1] if the weights are the same for all channels
            total, square = (ops.reshape(value, (layout.ghosts, -1)) for value in totals)
            alive = total > 0.0
            portion = ops.where(alive, 1.0 / ops.where(alive, total, 1.0), 0.0)
            effective = ops.where(alive, total * total / ops.where(alive, square, 1.0), 0.0)
            center = ops.reshape(weighted, shape) * portion
        center = finite(ops, center)
        sums = _run(_deviations, layout, x, center, weights)
        offset, spread = (ops.reshape(value, shape) * portion for value in sums)
        variance = ops.maximum(spread - offset * offset, 0.0)
        return Moments(total, effective, center + offset, variance, center, offset)

    def apply(
        self,
        x: Tensor,
        mean: Tensor,
        scale: Tensor,
        shift: Tensor,
        layout: Layout,
        epilogue: Epilogue[Tensor] | None = None,
    ) -> Tensor:
        if epilogue is not None:
            return super().apply(x, mean, scale, shift, layout, epilogue)
        return _run(_apply, layout, x, mean, scale, shift)

    def grad_sums(self, dy: Tensor, x: Tensor, mean: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        return _run(_grad_sums, layout, dy, x, mean)

    def grad_input(
        self,
        dy: Tensor,
        x: Tensor,
        weights: Tensor | None,
        mean: Tensor,
        terms: GradTerms[Tensor],
        layout: Layout,
        epilogue: Epilogue[Tensor] | None = None,
    ) -> Tensor:
        if epilogue is not None:
            return super().grad_input(dy, x, weights, mean, terms, layout, epilogue)
        return _run(_grad_input, layout, dy, x, weights, mean, *terms)


compiled = Compiled(composed.ops, composed.differentiate, composed.add_up)


def _sample_mean(x: Tensor, layout: Layout, dtype: Any) -> Tensor:
    """The mean of a sample, [G, C], which is spread evenly along the longest of the reduced runs."""
    viewed = core.to_view(ops, x, layout)
    if layout.reduced:
        sizes = ops.shape(viewed)
        # An unknown size is that of the batch, or of what has merged with it.
        longest = max(
            layout.reduced, key=lambda run: (not isinstance(sizes[run], int), viewed.shape[run] or 0)
        )
        step = ops.maximum(
            1, ops.minimum(sizes[longest], ops.maximum(layout.count // LARGEST_SAMPLE, SPARSEST_SAMPLE))
        )
        viewed = tf.gather(viewed, tf.range(0, sizes[longest], step), axis=longest)
    size = tf.size(viewed) // ops.maximum(1, layout.ghosts * layout.channels)
    mean = ops.sum(ops.cast(viewed, dtype), layout.reduced) * core.share(ops, ops.cast(size, dtype))
    return ops.reshape(mean, (layout.ghosts, layout.channels))


# What is compiled: functions of `ops`, the layout and the arrays.


def _weigh(ops: Any, layout: Layout, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Σw, Σw² and Σw·x."""
    dtype = ops.stat_dtype(x)
    w = core.weight_view(ops, weights, layout, dtype)
    viewed = ops.cast(core.to_view(ops, x, layout), dtype)
    return tuple(ops.sum(value, layout.reduced) for value in (w, w * w, w * viewed))  # pyright: ignore[reportReturnType]


def _deviations(
    ops: Any, layout: Layout, x: Tensor, center: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Σw·(x − center) and Σw·(x − center)².

    XLA would first write whatever the two sums share to an array of the input's size, so they share nothing.
    """
    dtype = ops.stat_dtype(x)
    viewed, center = ops.cast(core.to_view(ops, x, layout), dtype), ops.reshape(center, layout.stat_view)
    first, second = viewed - center, viewed + (-center)
    second = second * second
    if weights is not None:
        w = core.weight_view(ops, weights, layout, dtype)
        first, second = w * first, w * second
    return ops.sum(first, layout.reduced), ops.sum(second, layout.reduced)


def _apply(ops: Any, layout: Layout, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return core.apply(ops, x, mean, scale, shift, layout)


def _grad_sums(ops: Any, layout: Layout, dy: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    return core.grad_sums(ops, dy, x, mean, layout)


def _grad_input(
    ops: Any, layout: Layout, dy: Tensor, x: Tensor, weights: Tensor | None, mean: Tensor, *terms: Tensor
) -> Tensor:
    return core.grad_input(ops, dy, x, weights, mean, GradTerms(*terms), layout)


def _run(function: Function, layout: Layout, *arrays: Tensor | None) -> Any:
    """One of these functions, compiled if the shapes are known and there are not too many already."""
    given = [array for array in arrays if array is not None]
    if not _can_compile() or not all(array.shape.is_fully_defined() for array in given):
        return function(_uncompiled_ops, layout, *arrays)
    key = (
        function,
        layout,
        *(array if array is None else (array.dtype, tuple(array.shape)) for array in arrays),
    )
    if key not in _functions:
        if len(_functions) >= MOST_FUNCTIONS:
            return function(_uncompiled_ops, layout, *arrays)
        bound = partial(function, _compiled_ops, layout)
        _functions[key] = tf.function(bound, autograph=False, jit_compile=True)
    return _functions[key](*arrays)


@cache
def _can_compile() -> bool:
    return tf.test.is_built_with_xla()


def _sum(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Sums of parts that lie far apart, which XLA adds up as it reads them; then sums of these, in short chains."""
    if axes:
        axis = min(axes)
        parts = max(part for part in range(1, PARTS + 1) if x.shape[axis] % part == 0)
        x = _in_pairs(tf.unstack(ops.divide(x, axis, parts), axis=axis))
    for axis in sorted(axes, reverse=True):
        x = ops.sum_in_chains(x, axis)
    return x


def _sum_uncompiled(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Sums of an input of unknown size: on a CPU, multiplying by ones is the fastest way to sum columns."""
    if tuple(axes) != (0,) or x.shape.rank != 2 or x.shape[0] is not None:
        return ops.sum(x, axes)
    return tf.matmul(tf.ones([1, tf.shape(x)[0]], x.dtype), x)[0]


def _in_pairs(terms: list[Tensor]) -> Tensor:
    """The sum with few roundings, and without one long chain of dependent additions."""
    while len(terms) > 1:
        pairs = [left + right for left, right in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + terms[2 * len(pairs) :]
    return terms[0]


_standard = {name: getattr(ops, name) for name in ops.__all__}
_compiled_ops = SimpleNamespace(**_standard | {"sum": _sum})
_uncompiled_ops = SimpleNamespace(**_standard | {"sum": _sum_uncompiled})
