"""Whether the program is being traced or transformed: then plain operations are what every system can take."""

import torch
from torch.autograd import forward_ad

__all__ = ["is_traced", "is_watched"]


def is_traced() -> bool:
    """Under torch.compile, torch.export, torch.func's transforms and forward-mode differentiation."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]
        or forward_ad._current_level >= 0  # pyright: ignore[reportPrivateUsage]
    )


def is_watched() -> bool:
    """Under `torch.jit.trace`, and modes that see each operation: tracers, counters of operations, fake tensors."""
    return (
        torch._C._len_torch_dispatch_stack() > 0  # pyright: ignore[reportPrivateUsage]
        or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    )
