"""Many groups of few numbers: statistics nearly as large as the input, so that all arithmetic on them counts.

Ghost batches of matrices are the usual case: 8192 × 1024 in ghosts of 16 have half a million means. With no more
than a handful of numbers each, a group is summed in one go, and its mean is exact before anything is squared.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from batchnorm._core.engine import Moments, Saved
from batchnorm._core.moments import finite
from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.compiled import LEAST_ELEMENTS, kernel, pays
from batchnorm._engines.tensorflow.elementwise import MOST_PIECES, Piece, add_in_pairs, affine, pulled
from batchnorm.layout import Layout

__all__ = ["fused_gradients", "fused_train"]

Tensor = Any

COMPILED = Piece(1, 1)


def fused_train(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, layout: Layout
) -> tuple[Tensor, Moments[Tensor], Tensor] | None:
    """y, the moments and the slope of y over x; None for another layout."""
    if not _has_few(x, layout):
        return None
    viewed, channels = ops.reshape(x, layout.view), _channel_shape(layout)
    given = tuple(ops.reshape(value, channels) for value in (gamma, beta) if value is not None)
    asked = (*layout.reduced, epsilon, gamma is not None, beta is not None)
    found = _call(_moments, layout.reduced, viewed)
    mean, variance, center, offset, scale, shift = _call(_fold, asked, found, viewed, *given)
    y = ops.reshape(_call(affine, (COMPILED,), viewed, center, scale, shift), layout.shape)
    total = float(layout.count)
    parts = (ops.reshape(value, _groups(layout)) for value in (mean, variance, center, offset))
    return y, Moments(total, total, *parts), ops.reshape(scale, _groups(layout))


def fused_gradients(
    dy: Tensor, x: Tensor, saved: Saved[Tensor], epsilon: float, layout: Layout
) -> tuple[Tensor, Tensor, Tensor] | None:
    """dx, Σdy and Σdy·x̂, or None."""
    if not _has_few(x, layout):
        return None
    dy, viewed = (ops.reshape(value, layout.view) for value in (dy, x))
    statistics = (saved.center, saved.offset, saved.variance, saved.scale)
    center, offset, variance, scale = (ops.reshape(value, layout.stat_view) for value in statistics)
    sums = _call(_sums, layout.reduced, dy, viewed, center)
    tilt, base, *sums = _call(_terms, (epsilon, float(layout.count)), sums, offset, variance, scale)
    dx = ops.reshape(_call(pulled, (COMPILED,), dy, viewed, center, scale, tilt, base), layout.shape)
    return dx, *(ops.reshape(value, _groups(layout)) for value in sums)


def _has_few(x: Tensor, layout: Layout) -> bool:
    """Whether one short run is reduced, and there are so many groups that their arithmetic is worth compiling."""
    if len(layout.reduced) != 1 or layout.permutation is not None:
        return False
    length = layout.view[layout.reduced[0]]
    return pays(x) and 1 < length <= MOST_PIECES and layout.ghosts * layout.channels >= LEAST_ELEMENTS


# XLA makes a loop of its own for each result, and would read the input for each. Two sums in one complex number are
# one result; whatever comes next takes them apart.


def _moments(axis: int, x: Tensor) -> Tensor:
    """(μ − c) + σ²·i, c being the first number of each group."""
    parts: list[Tensor] = [tf.cast(part, ops.stat_dtype(x)) for part in tf.split(x, x.shape[axis], axis)]
    # The first number is near enough to the mean: in a group of n it is off by less than σ·√n.
    center = finite(ops, parts[0])
    deviations = [part - center for part in parts]
    share = 1.0 / x.shape[axis]
    offset = add_in_pairs(deviations) * share
    spread = add_in_pairs([deviation * deviation for deviation in deviations]) * share
    return tf.complex(offset, tf.maximum(spread - offset * offset, 0.0))


def _fold(
    axis: int, epsilon: float, with_gamma: bool, with_beta: bool, moments: Tensor, x: Tensor, *given: Tensor
) -> tuple[Tensor, ...]:
    """The moments, γ / √(σ² + ε), and β minus the offset's contribution to y."""
    offset, variance = tf.math.real(moments), tf.math.imag(moments)
    first: Tensor = tf.cast(tf.split(x, x.shape[axis], axis)[0], offset.dtype)
    center = finite(ops, first)
    scale = 1.0 / tf.sqrt(variance + epsilon)
    scale = scale * given[0] if with_gamma else scale
    shift = given[-1] - offset * scale if with_beta else -offset * scale
    return center + offset, variance, center, offset, scale, shift


def _sums(axis: int, dy: Tensor, x: Tensor, mean: Tensor) -> Tensor:
    """Σdy + Σdy·(x − mean)·i."""
    dys, xs = ([tf.cast(part, mean.dtype) for part in tf.split(z, z.shape[axis], axis)] for z in (dy, x))
    return tf.complex(
        add_in_pairs(dys), add_in_pairs([dy * (x - mean) for dy, x in zip(dys, xs, strict=True)])
    )


def _terms(
    epsilon: float, count: float, sums: Tensor, offset: Tensor, variance: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradient's tilt and offset, as the core derives them, Σdy and Σdy·x̂."""
    deviation, dy_sum = tf.sqrt(variance + epsilon), tf.math.real(sums)
    dy_xhat_sum = (tf.math.imag(sums) - offset * dy_sum) / deviation
    pulled = scale / count
    tilt = -pulled * dy_xhat_sum / deviation
    return tilt, -pulled * dy_sum - offset * tilt, dy_sum, dy_xhat_sum


def _call(function: Callable[..., Any], static: tuple[Any, ...], *arrays: Tensor) -> Any:
    return kernel(function, static, arrays)(*arrays)


def _channel_shape(layout: Layout) -> list[int]:
    """The view's shape for one number per channel: 1 for reduced runs and for the ghost groups."""
    shape = list(layout.stat_view)
    if layout.ghosts != 1:
        shape[next(run for run in range(len(shape)) if run not in layout.reduced)] = 1
    return shape


def _groups(layout: Layout) -> Sequence[int]:
    return layout.ghosts, layout.channels
