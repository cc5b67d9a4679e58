"""Private names of JAX, each with what depends on it; tests/unit/test_private.py touches each.

If an import is gone, importing the engine raises an ImportError that says so; if an attribute is gone, the first trace
that needs it raises.
"""

from collections.abc import Callable
from typing import Any

import jax

from batchnorm._require import private_names

with private_names("JAX", jax.__version__, "jax"):
    # Derivatives of our primitives.
    from jax.interpreters.ad import (
        instantiate_zeros,
        is_undefined_primal,
        primitive_jvps,
        primitive_transposes,
    )

    # `jax.vmap` over our primitives.
    from jax.interpreters.batching import primitive_batchers

    # What XLA compiles: a kernel on the CPU, plain operations elsewhere.
    from jax.interpreters.mlir import lower_fun, register_lowering

__all__ = [
    "instantiate_zeros",
    "is_exported",
    "is_undefined_primal",
    "lower_plainly",
    "primitive_batchers",
    "primitive_jvps",
    "primitive_transposes",
    "register_lowering",
    "varying_axes",
]


def lower_plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    """The lowering rule of a primitive that is a function in JAX's own operations: exports and other devices."""
    return lower_fun(function, multiple_results=True)


def is_exported(context: Any) -> bool:
    """Whether what is lowered leaves the process, and so cannot call our kernels."""
    return context.module_context.lowering_parameters.for_export


def varying_axes(kind: Any) -> frozenset[str]:
    """The mapped axes over which a value of this type differs from device to device: the kernels stay out."""
    return frozenset(kind.manual_axis_type.varying)
