"""The layer's buffers: which there are, how they start, and what a training step does to them."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from batchnorm._core import state as core
from batchnorm._core.engine import Batch
from batchnorm._engines.torch import engine, numpy_stats, recompute
from batchnorm._engines.torch.ops import NARROW
from batchnorm._engines.torch.private import buffers_of
from batchnorm.errors import format_error
from batchnorm.options import Options

__all__ = [
    "absent",
    "added",
    "advance",
    "alone",
    "drop",
    "moves",
    "read",
    "register",
    "reset",
    "running",
    "start",
    "widen",
]

Tensor = torch.Tensor
Module = torch.nn.Module

ops = engine.ops

# The buffers of `torch.nn`'s layers, by slot of the core's state, and ours that are not named after their slot.
THEIRS = {"moving_mean": "running_mean", "moving_variance": "running_var"}
NAMES = THEIRS | {"biased": "moving_mean_biased", "local_step": "moving_mean_local_step"}


def added(options: Options) -> dict[str, str]:
    """The buffer's name for each slot that `torch.nn`'s layers do not have."""
    return {slot: NAMES.get(slot, slot) for slot in core.slots(options) if slot not in THEIRS}


def start(options: Options, mean: Tensor, variance: Tensor) -> dict[str, Tensor]:
    """What each slot's buffer holds if training begins with these running statistics."""
    values = core.initial_state(ops, options, mean.detach(), variance.detach())
    # Several start from the same tensor, and each then changes independently.
    return {slot: value.clone() for slot, value in values.items()}


def widen(layer: Module, before: Mapping[str, Tensor | None]) -> None:
    """Keep a layer's statistics in 32 bits after a cast to 16, from the wider ones that it had before, if any.

    float16 ends at 65,504, which the variance of numbers like 1000 exceeds; and 16 bits round small shares away.
    """
    own = buffers_of(layer)
    for name, value in own.items():
        if value is not None and value.dtype in NARROW:
            source = before.get(name)
            own[name] = (value if source is None else source).to(value.device, torch.float32)


def register(layer: Module, options: Options) -> None:
    """Add the buffers that `torch.nn`'s layers do not have, if any, and keep all in 32 bits at least."""
    widen(layer, {})
    mean, variance = layer.running_mean, layer.running_var
    if isinstance(mean, Tensor) and isinstance(variance, Tensor):
        values = start(options, mean, variance)
        for slot, name in added(options).items():
            layer.register_buffer(name, values[slot])


def drop(layer: Any, options: Options) -> None:
    """Remove what `register` added. If parameters have 16 bits, so do the statistics: torch.nn requires one dtype."""
    for name in THEIRS.values():
        value = getattr(layer, name)
        if value is not None and layer.weight is not None and layer.weight.dtype in NARROW:
            setattr(layer, name, value.to(layer.weight.dtype))
    for name in added(options).values():
        if hasattr(layer, name):
            delattr(layer, name)


def reset(layer: Any, options: Options) -> None:
    """Start the added buffers again from the running statistics."""
    values = start(options, layer.running_mean, layer.running_var)
    for slot, name in added(options).items():
        # There may be none: a program removed it, or a lazy layer has not created it yet.
        buffer = getattr(layer, name, None)
        if buffer is not None:
            buffer.copy_(values[slot])


def running(layer: Any) -> tuple[Any, Any]:
    """The running mean and variance that a call reads, or None and None if it reads none.

    As in `torch.nn`, training without tracking uses only the batch's, and so does every call of a layer that has no
    running statistics or from which they were removed.

    Raises:
        ValueError: only one of the two is None in training. In evaluation that is a RuntimeError.
    """
    if layer.training and not layer.track_running_stats:
        return None, None
    mean, variance = layer.running_mean, layer.running_var
    if (mean is None) != (variance is None):
        kind = ValueError if layer.training else RuntimeError
        raise kind(
            format_error(
                f"A layer was called whose {'running_mean' if mean is None else 'running_var'} is None",
                "running_mean and running_var must either both be None or neither be None",
                "Set both to None to normalize by the batch alone, or neither",
            )
        )
    return mean, variance


def moves(layer: Any) -> bool:
    """Whether a step of the layer moves its running statistics."""
    return layer.training and layer.track_running_stats and not recompute.is_frozen()


def alone(options: Options) -> Options:
    """The options that apply if only the batch's statistics are used: there is nothing to compare them with."""
    if options.renorm is None and not options.debias_mean:
        return options
    return replace(options, renorm=None, debias_mean=False)


def read(layer: Module, options: Options, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state as the core takes it. Statistics that a program has cast to 16 bits itself are widened again."""
    if not torch.compiler.is_compiling() and any(
        isinstance(value, Tensor) and value.dtype in NARROW for value in buffers_of(layer).values()
    ):
        widen(layer, {})
    return {slot: _plain(value, dtype) for slot, value in _buffers(layer, options).items()}


def absent(options: Options, x: Tensor, channels: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """A state for layers that use none: the initial running statistics."""
    zeros = torch.zeros(channels, dtype=dtype, device=x.device)
    return start(options, zeros, zeros + 1.0)


def _buffers(layer: Module, options: Options) -> dict[str, Any]:
    """Each slot's buffer, or the attribute that a program has put in its place."""
    own = buffers_of(layer)
    names = THEIRS | added(options)
    found = {slot: own[name] if name in own else getattr(layer, name) for slot, name in names.items()}
    missing = [names[slot] for slot, value in found.items() if value is None]
    if missing:
        raise ValueError(
            format_error(
                f"{type(layer).__name__} was called, and its {', '.join(missing)} is None",
                "The layer's options keep more running statistics than running_mean and running_var",
                "Set these two to None as well to normalize by the batch alone, or call "
                "convert(model, back=True, force=True) first for a layer without options",
            )
        )
    return found


def _plain(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Without a gradient, in this dtype; most are that already."""
    return value.detach().to(dtype) if value.requires_grad or value.dtype is not dtype else value


def advance(layer: Any, options: Options, batch: Batch[Tensor], before: dict[str, Tensor]) -> None:
    """Apply one training step to each buffer; `before` is what they hold, as `read` returned it."""
    with _unrecorded():
        count = layer.num_batches_tracked
        if count is not None:
            count.add_(1 if batch.has_weight is None else batch.has_weight.any())
        if layer.running_mean is None:
            return
        buffers = _buffers(layer, options)
        asked = options
        if layer.momentum is None:
            options = _plain_average(options, count, before["moving_mean"].dtype)
        elif options.debias_mean and (layer._is_loaded or layer.momentum != layer._debiased_by):
            # The average gathered with another momentum becomes what this one would have gathered.
            biased = _biased(before["moving_mean"], layer.momentum, before["local_step"])
            if layer._is_loaded:
                # By which momentum a checkpoint's was gathered, only its numbers tell: if by this one, they stay.
                given = before["biased"]
                biased = torch.where((given - biased).abs() <= 1e-4 * biased.abs(), given, biased)
            before = before | {"biased": biased}
            layer._debiased_by, layer._is_loaded = layer.momentum, False
        # What was read are the buffers themselves, if of the statistics' dtype.
        shared = all(before[slot] is value for slot, value in buffers.items())
        if not (shared and numpy_stats.advance(options, before, batch)):
            for slot, value in core.advance(ops, options, before, batch).items():
                _write(buffers[slot], value)
        if asked.debias_mean and not options.debias_mean:
            step = buffers["local_step"]
            step.add_(1 if batch.has_weight is None else batch.has_weight.any())
            _write(buffers["biased"], _biased(buffers["moving_mean"], layer._debiased_by, step))


def _unrecorded() -> AbstractContextManager[Any]:
    """Record no gradient. Exported programs do not need this, and could not be loaded with such a block in them."""
    return nullcontext() if torch.compiler.is_exporting() else torch.no_grad()


def _write(buffer: Tensor, value: Tensor) -> None:
    """Through a view if it is a single number: PyTorch's compilers would lose what is written to a float64 scalar."""
    if buffer.dim() == 0:
        buffer, value = buffer.view(1), value.reshape(1)
    buffer.copy_(value)


def _plain_average(options: Options, count: Tensor | None, dtype: torch.dtype) -> Options:
    """Over n batches: each new one has the share 1 / n. Before the first that counts there is nothing to share.

    As in `torch.nn`, nothing moves if the steps are not counted. A plain average has no bias to remove.
    """
    decay: Any = 1.0 if count is None else 1.0 - 1.0 / torch.clamp(count.to(dtype), min=1.0)
    return replace(options, decay=decay, debias_mean=False)


def _biased(mean: Tensor, momentum: float, step: Tensor) -> Tensor:
    """The average started at zero that has this mean once its bias is removed."""
    return mean * (1.0 - (1.0 - momentum) ** step)
