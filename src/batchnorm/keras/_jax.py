"""The layer on JAX: its engine."""

from batchnorm._engines.jax import engine
from batchnorm.keras._static_backend import (
    advance,
    assert_divisible,
    assign,
    dynamic_shape,
    either,
    infer_plainly,
    is_compiling,
    is_ragged,
    recall,
    train_plainly,
    value,
)

__all__ = [
    "advance",
    "assert_divisible",
    "assign",
    "dynamic_shape",
    "either",
    "engine",
    "infer_plainly",
    "is_compiling",
    "is_ragged",
    "recall",
    "train_plainly",
    "value",
]
