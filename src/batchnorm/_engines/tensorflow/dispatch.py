"""How calls with TensorFlow's tensors are computed; in a graph, whether it would contain the kernels' ops."""

from typing import Any

from batchnorm import _kernels
from batchnorm._engines.dispatch import Path
from batchnorm._engines.tensorflow import native
from batchnorm._engines.tensorflow.inference import is_image
from batchnorm._kernels.tensorflow import threads
from batchnorm.layout import Layout

__all__ = ["at_inference", "plain_step", "running", "slower_reason", "unsupported_reason"]

Tensor = Any


def unsupported_reason(x: Tensor, weights: Tensor | None, layout: Layout, synchronized: bool) -> str | None:
    del synchronized
    return native.why_not(x, weights, layout)


def slower_reason(x: Tensor) -> str | None:
    del x
    return None


def plain_step(x: Tensor, layout: Layout) -> Path | None:
    del x, layout
    return None


def at_inference(x: Tensor, layout: Layout) -> tuple[Path, str | None]:
    why = "inference uses TensorFlow's standard operations, which exported graphs may contain"
    return "framework" if is_image(x, layout) else "composed", why


def running() -> tuple[str | None, int]:
    return _kernels.instructions(), threads()
