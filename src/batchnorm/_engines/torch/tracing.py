"""Whether the program is being traced or transformed: then plain operations are what every system can take."""

import torch

from batchnorm._engines.torch.private import in_forward_mode, in_transform, is_recording_trace

__all__ = ["EXACT_TYPES", "is_traced", "why_traced"]

# A subclass may keep its numbers elsewhere, and notice nothing of what is written by address.
EXACT_TYPES = (torch.Tensor, torch.nn.Parameter)


def is_traced() -> bool:
    """Under torch.compile, torch.export, torch.jit.trace, torch.func's transforms and forward-mode differentiation."""
    return why_traced() is not None


def why_traced() -> str | None:
    """Which of these is at work, as a reason for plain operations."""
    if torch.compiler.is_compiling():
        return "PyTorch exports the program, or compiles it, where they take plain steps on large inputs only"
    if in_transform():
        return "one of torch.func's transforms is at work, which sees plain operations only"
    if in_forward_mode():
        return "derivatives are computed in forward mode, through plain operations"
    if is_recording_trace():
        return "torch.jit.trace records the operations, for inputs of other sizes too"
    return None
