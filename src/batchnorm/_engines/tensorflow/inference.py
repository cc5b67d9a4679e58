"""Normalization by given statistics in TensorFlow's standard operations: what exported graphs hold.

Images whose channels come last become one FusedBatchNormV3, which converters and optimizers of inference
graphs recognize and fold into the convolution before it. All else is a product and a sum.
"""

from typing import Any

import tensorflow as tf

from batchnorm._engines import composed
from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.fused import DATA_FORMATS, fused_normalize
from batchnorm.layout import Layout

__all__ = ["fused_infer", "is_image"]

Tensor = Any

# A module has the functions that the protocol asks for, with narrower types.
_ops: Any = ops
# A product repeats along no more dimensions, counting neighbors as one.
MOST_BROADCAST = 5


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
    if layout.permutation is not None and len(layout.shape) > MOST_BROADCAST:
        offset = tf.zeros_like(mean) if beta is None else beta
        return composed.apply(_ops, x, mean, scale, offset, layout)
    shift = -mean * scale if beta is None else beta - mean * scale
    channels = [size if axis in layout.axes else 1 for axis, size in enumerate(layout.shape)]
    y = ops.cast(x, dtype) * ops.reshape(scale, channels) + ops.reshape(shift, channels)
    return ops.cast(y, x.dtype)


def is_image(x: Tensor, layout: Layout) -> bool:
    """Whether FusedBatchNormV3 takes x: images, or series of them, of at most 32 bits whose channels come last."""
    rank = len(layout.shape)
    return rank in DATA_FORMATS and layout.axes == (rank - 1,) and ops.stat_dtype(x) == tf.float32
