"""Private names of Flax; tests/unit/test_private.py touches each.

If one is gone, importing `batchnorm.flax` raises an ImportError that says so.
"""

import flax

from batchnorm._require import private_names

with private_names("Flax", flax.__version__, "flax"):
    # The module's default `promote_dtype`, and the dtype of y: those of `flax.nnx.BatchNorm`.
    from flax.nnx.nn.dtypes import canonicalize_dtype, promote_dtype

__all__ = ["canonicalize_dtype", "promote_dtype"]
