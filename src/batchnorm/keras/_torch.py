"""The layer on PyTorch: its engine."""

from batchnorm._engines.torch import engine
from batchnorm.keras._known import divisible, dynamic_shape, either, value

__all__ = ["divisible", "dynamic_shape", "either", "engine", "value"]
