"""`tf.compat.v1` read as `batchnorm.compat.v1`: `layers` and `keras.utils`."""

from batchnorm._require import require

require("tensorflow", "TensorFlow", "tensorflow", "batchnorm.compat.v1")
