"""Whether the program is being traced or transformed: then plain operations are what every system can take."""

import torch
from torch.autograd import forward_ad

__all__ = ["is_traced", "is_watched", "why_traced"]


def is_traced() -> bool:
    """Under torch.compile, torch.export, torch.jit.trace, torch.func's transforms and forward-mode differentiation."""
    return why_traced() is not None


def why_traced() -> str | None:
    """Which of these is at work, as a reason for plain operations."""
    if torch.compiler.is_compiling():
        return "PyTorch exports the program, or compiles it, where they take plain steps on large inputs only"
    if torch._C._are_functorch_transforms_active():  # pyright: ignore[reportPrivateUsage]
        return "one of torch.func's transforms is at work, which sees plain operations only"
    if forward_ad._current_level >= 0:  # pyright: ignore[reportPrivateUsage]
        return "derivatives are computed in forward mode, through plain operations"
    if torch._C._is_tracing():  # pyright: ignore[reportPrivateUsage]
        return "torch.jit.trace records the operations, for inputs of other sizes too"
    return None


def is_watched() -> bool:
    """Under modes that see each operation: tracers, counters of operations, fake tensors."""
    return torch._C._len_torch_dispatch_stack() > 0  # pyright: ignore[reportPrivateUsage]
