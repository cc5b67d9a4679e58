"""What makes XLA compile quickly: a test runs what it compiles once or thrice, which is not worth optimizing."""

from typing import Any

import jax

ASKED: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}


def known(name: str, value: Any) -> bool:
    """Not every release has every option."""
    try:
        jax.jit(lambda: 0.0, compiler_options={name: value})()
    except jax.errors.JaxRuntimeError:
        return False
    return True


QUICKLY = {name: value for name, value in ASKED.items() if known(name, value)}
