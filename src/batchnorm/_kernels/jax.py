"""JAX's custom calls on the CPU kernels (`csrc/jax`): registered when first asked for, and why they are missing."""

import ctypes
from functools import cache
from pathlib import Path

import jax

from batchnorm._kernels import NOT_BUILT

__all__ = ["TARGETS", "load", "target", "why_missing"]

LIBRARY = Path(__file__).with_name("libbatchnorm_jax.so")
TARGETS = ("moments", "apply", "grad_sums", "grad_input", "train", "gradients")


def target(name: str) -> str:
    """What XLA knows a function by."""
    return f"batchnorm_jax_{name}"


def load() -> bool:
    """Whether XLA knows the functions; `why_missing` says why not."""
    return why_missing() is None


@cache
def why_missing() -> str | None:
    """Why there are no custom calls, in one sentence; None if they are registered."""
    if not LIBRARY.exists():
        return NOT_BUILT
    try:
        library = ctypes.CDLL(str(LIBRARY))
        for name in TARGETS:
            function = getattr(library, target(name))
            jax.ffi.register_ffi_target(target(name), jax.ffi.pycapsule(function), platform="cpu")
    except (OSError, AttributeError, RuntimeError, ValueError) as error:
        # XLA refuses functions for another version of its interface with a RuntimeError.
        return f"built, but not loaded: {error}"
    return None
