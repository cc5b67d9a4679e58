"""The layer on JAX, which knows every shape."""

from batchnorm._engines.jax import engine
from batchnorm.keras._static_backend import StaticBackend

__all__ = ["backend"]

backend = StaticBackend(engine)
