"""Which way JAX's arrays go."""

from typing import Any

from batchnorm import _kernels
from batchnorm._engines import jax as package
from batchnorm._engines.ways import Path
from batchnorm.layout import Layout

__all__ = ["at_inference", "plain_step", "running", "why_composed"]

Array = Any


def why_composed(x: Array, weights: Array | None, layout: Layout) -> str | None:
    asked = getattr(package, "why_composed", None)
    return "XLA compiles the operations" if asked is None else asked(x, weights, layout)


def plain_step(x: Array, layout: Layout) -> Path | None:
    del x, layout
    return None


def at_inference(x: Array, layout: Layout) -> tuple[Path, str | None]:
    why = why_composed(x, None, layout)
    return "native" if why is None else "composed", why


def running() -> tuple[str | None, int]:
    return _kernels.instructions(), _kernels.threads()
