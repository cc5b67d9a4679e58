"""Sums over the processes of PyTorch's default group."""

from typing import Any

import torch
import torch.distributed as dist

__all__ = ["sum_over_replicas"]


def sum_over_replicas(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values, all of one shape, summed over all processes in one exchange; unchanged if there is one process."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return values
    # The differentiable one: higher derivatives go through it.
    from torch.distributed.nn import functional

    return functional.all_reduce(torch.stack(values)).unbind()
