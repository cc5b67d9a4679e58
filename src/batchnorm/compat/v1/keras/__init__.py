"""The counterpart of `tf.compat.v1.keras`: the tracking helpers in `utils`."""
