"""The TensorFlow engine: the passes on the CPU kernels, and TensorFlow's own operation for inference.

A module with the names that the engine protocol asks for. If the kernels cannot be used, or were not built, the passes
are loops over blocks that XLA compiles one by one. On hosts with an accelerator they are the composed ones:
multiplying by ones, as `sums` does, would round there.
"""

from numbers import Real
from typing import Any

import tensorflow as tf

from batchnorm._core.composed import share
from batchnorm._core.engine import GradTerms, Moments, Saved
from batchnorm._core.moments import finite
from batchnorm._engines.tensorflow import elementwise, few, native, ops
from batchnorm._engines.tensorflow.block import Block, plan_block
from batchnorm._engines.tensorflow.compiled import is_confined, is_cpu
from batchnorm._engines.tensorflow.differentiable import differentiable
from batchnorm._engines.tensorflow.inference import fused_infer
from batchnorm._engines.tensorflow.plain import plain
from batchnorm._engines.tensorflow.replicas import sum_over_replicas
from batchnorm._engines.tensorflow.sums import sum_length
from batchnorm.layout import Layout

__all__ = [
    "apply",
    "composed",
    "differentiable",
    "fused_gradients",
    "fused_infer",
    "fused_train",
    "grad_input",
    "grad_sums",
    "grad_weights",
    "moments",
    "ops",
    "specialize",
    "sum_over_replicas",
]

Tensor = Any

# One number in sixteen, and of large groups about 256.
SPARSEST_SAMPLE = 16
LARGEST_SAMPLE = 256

composed = plain
specialize = composed.specialize

grad_weights = composed.grad_weights


def moments(x: Tensor, weights: Tensor | None, layout: Layout) -> Moments[Tensor]:
    """Mean and variance in one reading, by the deviations from a center that is near the mean.

    With δ the mean deviation from the center c, μ = c + δ and σ² = mean (x − c)² − δ². As c is the mean of a
    sample of S numbers out of N, δ² ≤ σ²·N/S whatever the numbers, so that little is lost in the difference.
    An infinite mean is left to δ: from an infinite center every finite number would deviate by infinity.
    """
    done = native.moments(x, weights, layout)
    if done is not None:
        return done
    if _is_composed():
        return composed.moments(x, weights, layout)
    block = plan_block(layout)
    dtype = ops.stat_dtype(x)
    x = block.view(x)
    if weights is None:
        total = effective = ops.as_float(layout.count, dtype)
        portion = share(ops, total)
        center = finite(ops, _sample_mean(x, block, dtype))
        sums = elementwise.run(elementwise.deviations, block.repeats, x, block.spread(center))
    else:
        w = block.weights(weights, dtype)
        total, square = _totals(w, block), _totals(w * w, block)
        alive = total > 0.0
        portion = ops.where(alive, 1.0 / ops.where(alive, total, 1.0), 0.0)
        effective = ops.where(alive, total * total / ops.where(alive, square, 1.0), 0.0)
        # No sample: all numbers that have weight might be outside it.
        (weighted,) = elementwise.run(elementwise.weighted, block.repeats, x, w)
        center = finite(ops, block.merge(sum_length(weighted)) * portion)
        sums = elementwise.run(elementwise.deviations, block.repeats, x, block.spread(center), w)
    offset, spread = (block.merge(sum_length(part)) * portion for part in sums)
    variance = ops.maximum(spread - offset * offset, 0.0)
    return Moments(total, effective, center + offset, variance, center, offset)


def apply(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, layout: Layout) -> Tensor:
    """(x − mean)·scale + shift."""
    done = native.apply(x, mean, scale, shift, layout)
    if done is not None:
        return done
    if _is_composed():
        return composed.apply(x, mean, scale, shift, layout)
    block = plan_block(layout)
    y = elementwise.run(
        elementwise.affine, block.repeats, block.view(x), *map(block.spread, (mean, scale, shift))
    )
    return block.restore(y)


def grad_sums(dy: Tensor, x: Tensor, mean: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Σdy and Σdy·(x − mean)."""
    done = native.grad_sums(dy, x, mean, layout)
    if done is not None:
        return done
    if _is_composed():
        return composed.grad_sums(dy, x, mean, layout)
    block = plan_block(layout)
    first, second = elementwise.run(
        elementwise.products, block.repeats, block.view(dy), block.view(x), block.spread(mean)
    )
    return block.merge(sum_length(first)), block.merge(sum_length(second))


def grad_input(
    dy: Tensor, x: Tensor, weights: Tensor | None, mean: Tensor, terms: GradTerms[Tensor], layout: Layout
) -> Tensor:
    """slope·dy + w·(tilt·(x − mean) + offset)."""
    done = native.grad_input(dy, x, weights, mean, terms, layout)
    if done is not None:
        return done
    if _is_composed():
        return composed.grad_input(dy, x, weights, mean, terms, layout)
    block = plan_block(layout)
    w = () if weights is None else (block.weights(weights, ops.stat_dtype(x)),)
    statistics = map(block.spread, (mean, *terms))
    return block.restore(
        elementwise.run(elementwise.pulled, block.repeats, block.view(dy), block.view(x), *statistics, *w)
    )


def fused_train(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, layout: Layout
) -> tuple[Tensor, Moments[Tensor], Tensor] | None:
    """y, the moments and the scale in one call, or None."""
    if not isinstance(epsilon, Real):  # which one call takes as an attribute
        return None
    done = native.fused_train(x, gamma, beta, epsilon, layout)
    return few.fused_train(x, gamma, beta, epsilon, layout) if done is None else done


def fused_gradients(
    dy: Tensor, x: Tensor, saved: Saved[Tensor], epsilon: float, layout: Layout
) -> tuple[Tensor, Tensor, Tensor] | None:
    """dx, Σdy and Σdy·x̂ in one call, or None."""
    if not isinstance(epsilon, Real):
        return None
    done = native.fused_gradients(dy, x, saved, epsilon, layout)
    return few.fused_gradients(dy, x, saved, epsilon, layout) if done is None else done


def _is_composed() -> bool:
    """Whether TensorFlow runs on other devices than CPUs, or a compiler sees everything: it fuses several operations
    into one loop by itself, and turns TensorFlow's fused operation into a product and a sum, which lose digits if the
    mean is far from zero."""
    return not is_cpu() or is_confined()


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
