"""`tf.compat.v1` read as `batchnorm.compat.v1`: `layers` and `keras.utils`."""
