"""TensorFlow's fused operation on given statistics: one reading and one writing, and the mean subtracted first."""

from typing import Any

import tensorflow as tf

__all__ = ["DATA_FORMATS", "fits_fused", "fused_affine", "fused_normalize"]

Tensor = Any

# By rank; with the channels first, it is slow on a CPU.
DATA_FORMATS = {4: "NHWC", 5: "NDHWC"}


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


def fits_fused(x: Tensor) -> bool:
    """Whether a block [rows, length, width] has one row, and numbers that the operation takes."""
    return x.shape.rank == 3 and x.shape[0] == 1 and x.dtype != tf.float64


def fused_affine(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(x − mean)·scale + shift for such a block; 1 / √(½ + ½) is exact."""
    shift, mean, scale = (tf.reshape(value, [-1]) for value in (shift, mean, scale))
    half = tf.fill(tf.shape(mean), 0.5)
    # [1, length, width] as one image of one row.
    return tf.squeeze(fused_normalize(tf.expand_dims(x, 0), scale, shift, mean, half, 0.5), [0])
