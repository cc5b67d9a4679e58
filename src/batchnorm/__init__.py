"""Batch normalization, complete.

`batch_norm` is a pure function for the arrays of any framework, `init` makes its first parameters and state, and
`explain` says how a call is computed: by the CPU kernels, the framework's own kernel, or plain operations. The classes
have import paths of their own, each of which imports its framework:

    batchnorm.compat.v1.layers        BatchNormalization, batch_normalization
    batchnorm.compat.v1.keras.utils   track_tf1_style_variables, get_or_create_layer
    batchnorm.contrib.layers          batch_norm
    batchnorm.contrib.framework       arg_scope and its companions
    batchnorm.keras.layers            BatchNormalization
    batchnorm.torch                   BatchNorm1d, BatchNorm2d, BatchNorm3d, convert
    batchnorm.flax                    BatchNorm

Importing `batchnorm` itself imports none of them, and no framework.
"""

from batchnorm._version import __version__
from batchnorm.activation import Activation
from batchnorm.explanation import Explanation, explain
from batchnorm.functional import batch_norm, init
from batchnorm.options import Clip, Ghost, Options, Renorm

__all__ = [
    "Activation",
    "Clip",
    "Explanation",
    "Ghost",
    "Options",
    "Renorm",
    "__version__",
    "batch_norm",
    "explain",
    "init",
]
