"""What is known of a tensor here and now, without waiting for an accelerator."""

from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["host_values"]


def host_values(value: Any) -> Any:
    """The numbers of an eager tensor or variable as NumPy's, if they are in the memory of a CPU; otherwise None."""
    if not tf.executing_eagerly():
        return None
    tensor: Any = tf.convert_to_tensor(value)
    return np.asarray(tensor) if hasattr(tensor, "numpy") and ":CPU:" in tensor.device else None
