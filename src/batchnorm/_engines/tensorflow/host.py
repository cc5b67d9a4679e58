"""The numbers of a tensor, if they are known without waiting for an accelerator."""

from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["host_values"]


def host_values(value: Any) -> Any:
    """The numbers of an eager tensor or variable as a NumPy array, if they are in CPU memory; otherwise None."""
    if not tf.executing_eagerly():
        return None
    tensor: Any = tf.convert_to_tensor(value)
    return np.asarray(tensor) if hasattr(tensor, "numpy") and ":CPU:" in tensor.device else None
