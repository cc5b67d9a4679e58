"""Batch normalization, complete.

The faces are imported by their own paths, each of which brings its framework:

    batchnorm.compat.v1.layers        BatchNormalization, batch_normalization
    batchnorm.compat.v1.keras.utils   track_tf1_style_variables, get_or_create_layer
    batchnorm.contrib.layers          batch_norm
    batchnorm.contrib.framework       arg_scope and its companions
    batchnorm.keras.layers            BatchNormalization

This module imports none of them.
"""

from batchnorm._version import __version__
from batchnorm.options import Clip, Ghost, Options, Renorm

__all__ = ["Clip", "Ghost", "Options", "Renorm", "__version__"]
