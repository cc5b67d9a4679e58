"""Which way JAX's arrays go, as far as is known while a program is traced.

What maps, exports or compiles it for another device afterwards puts plain operations into the kernels' places.
"""

from typing import Any

from batchnorm import _kernels
from batchnorm._engines.jax import native
from batchnorm._engines.ways import Path
from batchnorm.layout import Layout

__all__ = ["at_inference", "plain_step", "running", "why_composed", "why_slower"]

Array = Any

why_slower = native.why_slower


def why_composed(x: Array, weights: Array | None, layout: Layout, synchronized: bool) -> str | None:
    if synchronized:
        return "statistics over a mapped axis are computed in plain operations"
    return native.why_composed(x, weights, layout)


def plain_step(x: Array, layout: Layout) -> Path | None:
    del x, layout
    return None


def at_inference(x: Array, layout: Layout) -> tuple[Path, str | None]:
    del x, layout
    return "composed", "inference is plain operations, which XLA joins with those before and after"


def running() -> tuple[str | None, int | None]:
    # As many threads work as XLA has, which only the kernels are told.
    return _kernels.instructions(), None
