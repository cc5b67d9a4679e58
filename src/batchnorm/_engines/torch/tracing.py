"""Whether the program is being traced or transformed: then plain operations are what every system can take.

In the backward pass, PyTorch's compilers recompute cheap values from the inputs of the graph, but a graph that trains
has already written into some of these. `batchnorm::snapshot` is an operation that they cannot recompute, so they save
what it returns.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch

from batchnorm._engines.torch.private import in_forward_mode, in_transform, is_recording_trace

__all__ = ["EXACT_TYPES", "in_compiled_step", "is_recorded", "is_traced", "snapshot", "why_traced"]

Tensor = torch.Tensor
Key = TypeVar("Key")

# A subclass may keep its numbers elsewhere, and notice nothing of what is written by address.
EXACT_TYPES = (Tensor, torch.nn.Parameter)


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


def in_compiled_step() -> bool:
    """Whether the program is compiled, but neither exported nor inside a transform.

    Inside a transform, gradients are part of the same graph, whose writes come last.
    """
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting() and not in_transform()


def is_recorded(*values: Tensor | None) -> bool:
    """Whether PyTorch records what is done with these values, for a gradient."""
    return torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in values)


def snapshot(values: dict[Key, Tensor]) -> dict[Key, Tensor]:
    """Copies of the state that a compiled step reads, taken before the step moves it; otherwise the state itself."""
    if not in_compiled_step() or not torch.is_grad_enabled():
        return values
    return dict(zip(values, _snapshot([value.detach() for value in values.values()]), strict=True))


@torch.library.custom_op("batchnorm::snapshot", mutates_args=())
def _snapshot(values: Sequence[Tensor]) -> list[Tensor]:
    return [value.clone() for value in values]


@_snapshot.register_fake
def _(values: Sequence[Tensor]) -> list[Tensor]:
    return [torch.empty_like(value) for value in values]
