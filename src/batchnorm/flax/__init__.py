"""Batch normalization as a Flax NNX module."""

from batchnorm._require import require

require("jax", "JAX", "flax", "batchnorm.flax")
require("flax", "Flax", "flax", "batchnorm.flax")

from batchnorm.flax._module import BatchNorm  # noqa: E402

__all__ = ["BatchNorm"]
