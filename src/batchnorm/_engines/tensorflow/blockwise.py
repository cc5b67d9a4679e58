"""The four passes as loops over blocks that XLA compiles one by one: where our ops are missing or cannot go.

That is on machines without a C++ compiler, and for weights that differ between channels. On large inputs they take half
the time of plain operations.
"""

from typing import Any

import tensorflow as tf

from batchnorm._core.composed import share
from batchnorm._core.engine import GradTerms, Moments
from batchnorm._core.moments import finite
from batchnorm._engines.tensorflow import loops, ops
from batchnorm._engines.tensorflow.block import Block, plan_block
from batchnorm._engines.tensorflow.loops import sum_length
from batchnorm.layout import Layout

__all__ = ["apply", "grad_input", "grad_sums", "moments"]

Tensor = Any

# One number in sixteen, and of large groups about 256.
SPARSEST_SAMPLE = 16
LARGEST_SAMPLE = 256


def moments(x: Tensor, weights: Tensor | None, layout: Layout) -> Moments[Tensor]:
    """Mean and variance in one reading, by the deviations from a center that is near the mean.

    With δ the mean deviation from the center c, μ = c + δ and σ² = mean (x − c)² − δ². As c is the mean of a
    sample of S numbers out of N, δ² ≤ σ²·N/S whatever the numbers, so that little is lost in the difference.
    An infinite mean is left to δ: from an infinite center every finite number would deviate by infinity.
    """
    block = plan_block(layout)
    dtype = ops.stat_dtype(x)
    x = block.view(x)
    if weights is None:
        total = effective = ops.as_float(layout.count, dtype)
        portion = share(ops, total)
        center = finite(ops, _sample_mean(x, block, dtype))
        sums = loops.run(loops.deviations, block.repeats, x, block.spread(center))
    else:
        w = block.weights(weights, dtype)
        total, square = _totals(w, block), _totals(w * w, block)
        alive = total > 0.0
        portion = ops.where(alive, 1.0 / ops.where(alive, total, 1.0), 0.0)
        effective = ops.where(alive, total * total / ops.where(alive, square, 1.0), 0.0)
        # No sample: all numbers that have weight might be outside it.
        (weighted,) = loops.run(loops.weighted, block.repeats, x, w)
        center = finite(ops, block.merge(sum_length(weighted)) * portion)
        sums = loops.run(loops.deviations, block.repeats, x, block.spread(center), w)
    offset, spread = (block.merge(sum_length(part)) * portion for part in sums)
    variance = ops.maximum(spread - offset * offset, 0.0)
    return Moments(total, effective, center + offset, variance, center, offset)


def apply(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, layout: Layout) -> Tensor:
    """(x − mean)·scale + shift."""
    block = plan_block(layout)
    y = loops.run(loops.affine, block.repeats, block.view(x), *map(block.spread, (mean, scale, shift)))
    return block.restore(y)


def grad_sums(dy: Tensor, x: Tensor, mean: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Σdy and Σdy·(x − mean)."""
    block = plan_block(layout)
    first, second = loops.run(
        loops.products, block.repeats, block.view(dy), block.view(x), block.spread(mean)
    )
    return block.merge(sum_length(first)), block.merge(sum_length(second))


def grad_input(
    dy: Tensor, x: Tensor, weights: Tensor | None, mean: Tensor, terms: GradTerms[Tensor], layout: Layout
) -> Tensor:
    """slope·dy + w·(tilt·(x − mean) + offset)."""
    block = plan_block(layout)
    w = () if weights is None else (block.weights(weights, ops.stat_dtype(x)),)
    statistics = map(block.spread, (mean, *terms))
    return block.restore(
        loops.run(loops.pulled, block.repeats, block.view(dy), block.view(x), *statistics, *w)
    )


def _sample_mean(x: Tensor, block: Block, dtype: Any) -> Tensor:
    """The mean of a sample, [G, C]: some numbers of each row."""
    _, length, width = block.shape
    count = block.layout.count
    if isinstance(count, int):
        step = max(1, min(length, max(count // LARGEST_SAMPLE, SPARSEST_SAMPLE)))
    else:
        step = tf.maximum(1, tf.minimum(length, tf.maximum(count // LARGEST_SAMPLE, SPARSEST_SAMPLE)))
    # Neighbors along rows, because each number on its own would cost as much as a cache line.
    spread = tf.range(0, length, step)
    sample = x[:, : ops.shape(spread)[0]] if _is_one(width) else tf.gather(x, spread, axis=1)
    size = ops.as_float(block.merged * ops.shape(sample)[1], dtype)
    return block.merge(sum_length(ops.cast(sample, dtype))) * share(ops, size)


def _totals(w: Tensor, block: Block) -> Tensor:
    """Σw, [G, C], for weights that may stand for several numbers along any dimension of the block."""
    rows, length, width = block.shape
    totals = sum_length(w)
    if _is_one(ops.shape(w)[1]):
        totals = totals * ops.as_float(length, w.dtype)
    return block.merge(ops.broadcast_to(totals, (rows, width)))


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1
