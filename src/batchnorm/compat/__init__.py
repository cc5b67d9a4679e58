"""TensorFlow 1's names: `batchnorm.compat` stands for `tf.compat`."""
