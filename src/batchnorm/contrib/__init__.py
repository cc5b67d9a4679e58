"""The face of TensorFlow 1's `tf.contrib`: `layers` and `framework`."""

from batchnorm._require import require

require("tensorflow", "TensorFlow", "tensorflow", "batchnorm.contrib")
