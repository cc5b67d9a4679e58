"""`tf.compat.v1.layers.BatchNormalization` and `tf.compat.v1.layers.batch_normalization`, complete.

Variables, names, collections, update ops and numbers are the originals'; docs/differences.md says what differs,
and why.
"""

from batchnorm.compat.v1._function import batch_normalization
from batchnorm.compat.v1._layer import BatchNormalization

__all__ = ["BatchNorm", "BatchNormalization", "batch_norm", "batch_normalization"]

# The shorter names under which the module of TensorFlow 1 also had them.
BatchNorm = BatchNormalization
batch_norm = batch_normalization
