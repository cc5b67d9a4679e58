"""Normalization by given statistics in TensorFlow's standard operations: what exported graphs hold.

Images whose channels come last become one FusedBatchNormV3, which converters and optimizers of inference
graphs recognize and fold into the convolution before it. Everything else becomes a difference, a product and a sum:
with only a product and a sum, and the mean folded into the latter, a mean far from zero would cost digits.

Rows of features could go through FusedBatchNormV3 as images of one pixel. But with oneDNN, a call at [8, 16] then takes
90 µs instead of 35 µs for the six operations, and it is faster only from about a million numbers.
"""

from typing import Any

import tensorflow as tf

from batchnorm._core import composed
from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.context import is_confined
from batchnorm.layout import Layout

__all__ = ["fused_infer", "fused_normalize", "infer_gradients", "is_image"]

Tensor = Any

# Of FusedBatchNormV3, by rank; with the channels first, it is slow on a CPU.
DATA_FORMATS = {4: "NHWC", 5: "NDHWC"}


def fused_infer(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
    layout: Layout,
) -> Tensor:
    """γ·(x − mean) / √(variance + ε) + β. Its gradients are TensorFlow's own."""
    dtype = ops.stat_dtype(x)
    if is_image(x, layout):
        gamma = tf.ones_like(mean) if gamma is None else gamma
        beta = tf.zeros_like(mean) if beta is None else beta
        return fused_normalize(x, gamma, beta, mean, variance, epsilon)
    scale = tf.math.rsqrt(variance + epsilon)
    if gamma is not None:
        scale = scale * gamma
    if layout.permutation is not None and len(layout.shape) > ops.MOST_BROADCAST:
        offset = tf.zeros_like(mean) if beta is None else beta
        return composed.apply(ops, x, mean, scale, offset, layout)
    channels = [size if axis in layout.axes else 1 for axis, size in enumerate(layout.shape)]
    y = (ops.cast(x, dtype) - ops.reshape(mean, channels)) * ops.reshape(scale, channels)
    return ops.cast(y if beta is None else y + ops.reshape(beta, channels), x.dtype)


def infer_gradients(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
    layout: Layout,
) -> list[Tensor]:
    """The gradients of `fused_infer`, by TensorFlow, with respect to x, beta, gamma, mean and variance."""
    scale, beta = tf.ones_like(mean) if gamma is None else gamma, tf.zeros_like(mean)
    y = fused_infer(x, scale, beta, mean, variance, epsilon, layout)
    return tf.gradients(y, [x, beta, scale, mean, variance], grad_ys=dy)


def is_image(x: Tensor, layout: Layout) -> bool:
    """Whether FusedBatchNormV3 takes x: images, or series of them, of at most 32 bits whose channels come last.

    Not if XLA compiles: it would turn that operation into the product and the sum that lose digits.
    """
    rank = len(layout.shape)
    fits = rank in DATA_FORMATS and layout.axes == (rank - 1,) and ops.stat_dtype(x) == tf.float32
    return fits and not is_confined()


def fused_normalize(
    x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> Tensor:
    """γ·(x − mean) / √(variance + ε) + β for float32 statistics, x being of at most 32 bits and of rank 4 or 5."""
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=float(epsilon),
        data_format=DATA_FORMATS[x.shape.rank],
        is_training=False,
    ).y
