"""How calls with NumPy's arrays are computed."""

from typing import Any

from batchnorm import _kernels
from batchnorm._engines.dispatch import Path
from batchnorm._engines.numpy import kernels
from batchnorm.layout import Layout

__all__ = ["at_inference", "plain_step", "running", "slower_reason", "unsupported_reason"]

Array = Any


def unsupported_reason(x: Array, weights: Array | None, layout: Layout, synchronized: bool) -> str | None:
    del synchronized
    return kernels.why_not(x, weights, layout)


def slower_reason(x: Array) -> str | None:
    del x
    return None


def plain_step(x: Array, layout: Layout) -> Path | None:
    del x, layout
    return None


def at_inference(x: Array, layout: Layout) -> tuple[Path, str | None]:
    why = kernels.why_not(x, None, layout)
    return "native" if why is None else "composed", why


def running() -> tuple[str | None, int]:
    return _kernels.instructions(), _kernels.threads()
