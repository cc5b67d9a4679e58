"""Copies of the state that a compiled step reads, taken before the step moves it.

In the backward pass, PyTorch's compilers recompute cheap values from the inputs of the graph, but a graph that trains
has already written into some of these. `batchnorm::snapshot` is an operation that they cannot recompute, so they save
what it returns.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch

from batchnorm._engines.torch.private import in_transform

__all__ = ["snapshot"]

Tensor = torch.Tensor
Key = TypeVar("Key")


def snapshot(values: dict[Key, Tensor]) -> dict[Key, Tensor]:
    """The values, as copies that a gradient may keep; the values themselves unless the program is compiled."""
    compiled = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    # Inside a transform gradients are part of the same graph, whose writes come last.
    if not compiled or not torch.is_grad_enabled() or in_transform():
        return values
    return dict(zip(values, _snapshot([value.detach() for value in values.values()]), strict=True))


@torch.library.custom_op("batchnorm::snapshot", mutates_args=())
def _snapshot(values: Sequence[Tensor]) -> list[Tensor]:
    return [value.clone() for value in values]


@_snapshot.register_fake
def _(values: Sequence[Tensor]) -> list[Tensor]:
    return [torch.empty_like(value) for value in values]
