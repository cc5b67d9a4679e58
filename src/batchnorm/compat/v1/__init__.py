"""The counterpart of `tf.compat.v1`: `layers`, `keras.utils` and `recompute_grad`."""

from batchnorm._require import require

require("tensorflow", "TensorFlow", "tensorflow", "batchnorm.compat.v1")

from batchnorm._tf1.recompute import recompute_grad  # noqa: E402

__all__ = ["recompute_grad"]
