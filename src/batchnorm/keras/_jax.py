"""The layer on JAX: its engine."""

from batchnorm._engines.jax import engine
from batchnorm.keras._known import divisible, dynamic_shape, either, value

__all__ = ["divisible", "dynamic_shape", "either", "engine", "value"]
