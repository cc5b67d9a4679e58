"""The layer's buffers: which there are, how they start, and what a training step does to them."""

from dataclasses import replace
from typing import Any

import torch

from batchnorm._core import state as core
from batchnorm._engines.protocol import Batch
from batchnorm._engines.torch import engine, host
from batchnorm.options import Options

__all__ = ["advance", "buffer_names", "drop", "read", "register", "reset", "start"]

Tensor = torch.Tensor
Module = torch.nn.Module

ops = engine.ops

NAMES = {
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "biased": "moving_mean_biased",
    "local_step": "moving_mean_local_step",
}


def buffer_names(options: Options) -> dict[str, str]:
    """The buffer's name for each slot of the core's state."""
    return {slot: NAMES.get(slot, slot) for slot in core.slots(options)}


def start(options: Options, mean: Tensor, variance: Tensor) -> dict[str, Tensor]:
    """What each slot's buffer holds where training begins with these running statistics."""
    values = core.initial_state(ops, options, mean.detach(), variance.detach())
    # Several start from the same tensor, and each goes its own way.
    return {slot: value.clone() for slot, value in values.items()}


def register(layer: Module, options: Options) -> None:
    """Add the buffers that `torch.nn`'s layers do not have, if any."""
    mean, variance = layer.running_mean, layer.running_var
    if isinstance(mean, Tensor) and isinstance(variance, Tensor):
        values = start(options, mean, variance)
        for slot, name in buffer_names(options).items():
            if slot not in ("moving_mean", "moving_variance"):
                layer.register_buffer(name, values[slot])


def drop(layer: Module, options: Options) -> None:
    """Remove what `register` added."""
    for slot, name in buffer_names(options).items():
        if slot not in ("moving_mean", "moving_variance") and hasattr(layer, name):
            delattr(layer, name)


def reset(layer: Any, options: Options) -> None:
    """Start the added buffers again from the running statistics."""
    for slot, value in start(options, layer.running_mean, layer.running_var).items():
        getattr(layer, NAMES.get(slot, slot)).copy_(value)


def read(layer: Module, options: Options, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state as the core takes it; without running statistics, what they would start from."""
    mean = layer.running_mean
    if not isinstance(mean, Tensor):
        parameter = next(layer.parameters(), None)
        device = None if parameter is None else parameter.device
        zeros = torch.zeros(layer.num_features, dtype=dtype, device=device)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return start(options, zeros, zeros + 1.0)
    return {slot: _plain(value, dtype) for slot, value in _buffers(layer, options).items()}


def _buffers(layer: Module, options: Options) -> dict[str, Any]:
    """Each slot's buffer; one that was made an attribute of another kind is that."""
    own = layer._buffers  # pyright: ignore[reportPrivateUsage]
    return {
        slot: own[name] if name in own else getattr(layer, name)
        for slot, name in buffer_names(options).items()
    }


def _plain(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Without a gradient, in this dtype; most are that already."""
    return value.detach().to(dtype) if value.requires_grad or value.dtype is not dtype else value


def advance(layer: Any, options: Options, batch: Batch[Tensor], before: dict[str, Tensor]) -> None:
    """Do to each buffer what one training step does to it; `before` is what they hold, as `read` returned it."""
    with torch.no_grad():
        count = layer.num_batches_tracked
        if count is not None:
            count.add_(1 if batch.counted is None else batch.counted.any())
            if layer.momentum is None:
                options = _plain_average(options, count.to(before["moving_mean"].dtype))
        buffers = _buffers(layer, options)
        # What was read are the buffers themselves, if of the statistics' dtype.
        shared = all(before[slot] is value for slot, value in buffers.items())
        if shared and host.advance(options, before, batch):
            return
        for slot, value in core.advance(ops, options, before, batch).items():
            buffers[slot].copy_(value)


def _plain_average(options: Options, count: Tensor) -> Options:
    """Over n batches: each new one has the share 1 / n. Before the first that counts there is nothing to share."""
    return replace(options, decay=1.0 - 1.0 / torch.clamp(count, min=1.0))
