"""`tf.compat.v1.layers.BatchNormalization` and `tf.compat.v1.layers.batch_normalization`, complete.

Variables, names, collections, update ops and numbers are the originals'; docs/differences.md says what differs,
and why.
"""

from batchnorm.compat.v1._function import batch_normalization
from batchnorm.compat.v1._layer import BatchNormalization

__all__ = ["BatchNorm", "BatchNormalization", "batch_norm", "batch_normalization"]

# TensorFlow 1's module also had them under these shorter names.
BatchNorm = BatchNormalization
batch_norm = batch_normalization
