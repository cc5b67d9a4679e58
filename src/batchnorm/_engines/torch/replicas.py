"""Sums over the processes of PyTorch's default group."""

from typing import Any

import torch.distributed as dist

__all__ = ["sum_over_replicas"]


def sum_over_replicas(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Each value summed over all processes; the values as they are where there is one."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return values
    # The differentiable one: higher derivatives go through it.
    from torch.distributed.nn import functional

    return tuple(functional.all_reduce(value.contiguous()) for value in values)
