"""When the historical v1 layer took its fused kernel: it decides which variance enters the moving average."""

from typing import Any

import tensorflow as tf

__all__ = ["was_fused"]


def was_fused(fused: bool | None, axes: tuple[int, ...], rank: int, dtype: Any, plain: bool) -> bool:
    """Whether TensorFlow 2's v1 layer runs fused: rank 4 or 5, one axis, first or last channel, at most 32 bits.

    Args:
        fused: the user's wish; None and True are the same here, as they always were.
        axes: non-negative channel axes.
        plain: neither renorm nor ghost batches nor an adjustment is asked for.
    """
    small = dtype in (tf.float16, tf.bfloat16, tf.float32)
    return fused is not False and plain and small and rank in (4, 5) and axes in ((1,), (rank - 1,))
