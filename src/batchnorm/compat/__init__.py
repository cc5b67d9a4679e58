"""TensorFlow 1's names, with `tf.compat` read as `batchnorm.compat`."""
