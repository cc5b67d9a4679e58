"""The face of TensorFlow 1's `tf.contrib`: `layers` and `framework`."""
