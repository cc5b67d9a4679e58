"""Whether the program is being traced or transformed: then plain operations are what every system can take."""

import torch
from torch.autograd import forward_ad

__all__ = ["is_traced"]


def is_traced() -> bool:
    """Under torch.compile, torch.export, torch.func's transforms and forward-mode differentiation."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]
        or forward_ad._current_level >= 0  # pyright: ignore[reportPrivateUsage]
    )
