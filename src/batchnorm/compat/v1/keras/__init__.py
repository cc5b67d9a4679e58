"""`tf.compat.v1.keras` read as `batchnorm.compat.v1.keras`: the tracking helpers in `utils`."""
