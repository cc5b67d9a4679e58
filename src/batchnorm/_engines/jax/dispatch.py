"""How calls with JAX's arrays are computed, as far as this is known while a program is traced.

If the program is later mapped, exported or compiled for another device, plain operations replace the kernels.
"""

from typing import Any

from batchnorm import _kernels
from batchnorm._engines.dispatch import Path
from batchnorm._engines.jax import native
from batchnorm.layout import Layout

__all__ = ["at_inference", "plain_step", "running", "slower_reason", "unsupported_reason"]

Array = Any

slower_reason = native.slower_reason


def unsupported_reason(x: Array, weights: Array | None, layout: Layout, synchronized: bool) -> str | None:
    if synchronized:
        return "statistics over a mapped axis are computed in plain operations"
    return native.unsupported_reason(x, weights, layout)


def plain_step(x: Array, layout: Layout) -> Path | None:
    del x, layout
    return None


def at_inference(x: Array, layout: Layout) -> tuple[Path, str | None]:
    del x, layout
    return "composed", "inference uses plain operations, which XLA fuses with those before and after"


def running() -> tuple[str | None, int | None]:
    # XLA decides how many threads work, and tells only the kernels.
    return _kernels.instructions(), None
