"""Which way PyTorch's tensors go. Compilers that trace Python can read it."""

import torch

from batchnorm import _kernels
from batchnorm._engines.torch import kernels, library, native
from batchnorm._engines.torch.block import plan_block
from batchnorm._engines.ways import Path
from batchnorm.layout import Layout

__all__ = ["at_inference", "plain_step", "running", "why_composed", "why_slower"]

Tensor = torch.Tensor

# Asked while nothing is being traced.
INSTRUCTIONS = _kernels.instructions()


def why_composed(x: Tensor, weights: Tensor | None, layout: Layout, synchronized: bool) -> str | None:
    del synchronized
    return native.why_not(layout, x, weights)


def why_slower(x: Tensor) -> str | None:
    del x
    return None


def plain_step(x: Tensor, layout: Layout) -> Path | None:
    """One operation of ours in a compiled program, or PyTorch's own kernel."""
    if library.prefers_library(x):
        # It computes in plain operations where the kernels cannot go.
        return "native" if layout.permutation is None else None
    return "framework" if kernels.fits(x, layout) else None


def at_inference(x: Tensor, layout: Layout) -> tuple[Path, str | None]:
    if native.prefers_operation(x) and kernels.infers(x, plan_block(layout)):
        return "framework", "PyTorch has an operation for inference, which exporters know"
    why = "a gradient is recorded" if native.is_recorded(x) else native.why_not(layout, x)
    return "native" if why is None else "composed", why


def running() -> tuple[str | None, int | None]:
    return INSTRUCTIONS, None if torch.compiler.is_compiling() else torch.get_num_threads()
