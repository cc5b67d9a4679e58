"""Training that leaves no trace: blocks that keep the running statistics, and recomputation from the earlier ones.

Activation checkpointing runs the forward pass a second time when the gradient is due. By then the running statistics
have moved on, and they must not move again; renorm's corrections must be those of the first run.
"""

import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from batchnorm._engines.torch.private import in_compiled_checkpoint
from batchnorm.errors import format_error

__all__ = ["checkpoint_contexts", "frozen_statistics", "is_frozen", "recall"]

Seen = tuple[dict[str, torch.Tensor], torch.Tensor | None]


@dataclass(eq=False)
class _Run(AbstractContextManager[None]):
    """A run that notes what each layer reads, call by call, or one that replays it in the same order.

    It can be entered more than once: a graph that is kept is recomputed at every backward pass.

    Attributes:
        seen: what each layer read in the first run, which both runs of a checkpoint share.
        replays: whether this run replays the first.
        calls: how often each layer has been called so far, if it replays.
    """

    seen: dict[int, list[Seen]]
    replays: bool
    calls: dict[int, int] = field(default_factory=dict[int, int])

    def __enter__(self) -> None:
        self.calls.clear()
        _runs.stack.append(self)

    def __exit__(self, *error: Any) -> None:
        _runs.stack.remove(self)


class _Runs(threading.local):
    """The runs around the current call, outermost first. The gradient may run in a thread of its own."""

    def __init__(self) -> None:
        self.stack: list[_Run] = []


_runs = _Runs()


@contextmanager
def frozen_statistics() -> Generator[None]:
    """A block in which layers in training mode normalize by their batch and leave all running statistics alone.

    For any forward pass that should not count: a second look at a batch, a probe, a target, recomputation by hand.
    Layers compiled by `torch.compile` do not see it.

    Examples:
        >>> import torch
        >>> from batchnorm.torch import BatchNorm1d, frozen_statistics
        >>> layer = BatchNorm1d(3)
        >>> with frozen_statistics():
        ...     y = layer(torch.rand(8, 3))
        >>> int(layer.num_batches_tracked)
        0
    """
    with _Run({}, replays=True):
        yield


def checkpoint_contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """The `context_fn` of `torch.utils.checkpoint.checkpoint`: the recomputation counts no statistics twice.

        checkpoint(block, x, use_reentrant=False, context_fn=batchnorm.torch.checkpoint_contexts)

    The recomputation starts from the running statistics of the first run, so that renorm's corrections are the same.

    Returns:
        Two context managers, for the first run and for the recomputation.

    Examples:
        >>> import torch
        >>> from torch.utils.checkpoint import checkpoint
        >>> from batchnorm.torch import BatchNorm1d, checkpoint_contexts
        >>> layer = BatchNorm1d(3)
        >>> y = checkpoint(layer, torch.rand(8, 3), use_reentrant=False, context_fn=checkpoint_contexts)
        >>> y.sum().backward()
        >>> int(layer.num_batches_tracked)
        1
    """
    seen: dict[int, list[Seen]] = {}
    return _Run(seen, replays=False), _Run(seen, replays=True)


def is_frozen() -> bool:
    """Whether the running statistics must stay as they are."""
    if torch.compiler.is_compiling():
        return False
    return bool(_runs.stack) and any(run.replays for run in _runs.stack)


def recall(layer: torch.nn.Module, current: Seen) -> Seen:
    """The state that the layer must read: in a recomputation, what it read in the first run.

    Raises:
        RuntimeError: a compiled program would run renorm again on averages that have moved.
    """
    if torch.compiler.is_compiling():
        _refuse_compiled_checkpoint(layer, current)
        return current
    replayed = next((run for run in reversed(_runs.stack) if run.replays and run.seen), None)
    seen = current if replayed is None else _next_seen(replayed, layer)
    for run in _runs.stack:
        if not run.replays:
            state, step = seen
            kept = {slot: value.clone() for slot, value in state.items()}
            run.seen.setdefault(id(layer), []).append((kept, None if step is None else step.clone()))
    return seen


def _next_seen(run: _Run, layer: torch.nn.Module) -> Seen:
    call, calls = run.calls.get(id(layer), 0), run.seen.get(id(layer), [])
    run.calls[id(layer)] = call + 1
    if call < len(calls):
        return calls[call]
    raise RuntimeError(
        format_error(
            f"{layer} was called in a recomputation more often than in the first run",
            "Each call reads again what it read then",
            "Checkpoint functions that do the same each time they run",
        )
    )


def _refuse_compiled_checkpoint(layer: torch.nn.Module, current: Seen) -> None:
    # Unless the graph must be whole, the compiler then leaves the block to Python, and the gradient is right.
    renorm = "renorm_mean" in current[0] and torch.compiler.is_dynamo_compiling()
    if renorm and in_compiled_checkpoint():
        raise RuntimeError(
            format_error(
                f"{type(layer).__name__} with renorm=True was called in a checkpointed block of a compiled program",
                "The block is run again for the gradient, and by then the averages that correct its output have moved",
                "Leave renorm layers out of such blocks, or do not compile the program",
            )
        )
