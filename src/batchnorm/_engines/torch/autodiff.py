"""Our own gradient for PyTorch: first order by the core's formulas, higher orders by deriving those."""

# Compilers that trace Python cannot evaluate the annotations of functions that are made on the way.
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from batchnorm._core.engine import Batch, Gradients, Inputs, Saved
from batchnorm._engines.torch.tracing import is_recorded, is_traced, snapshot

__all__ = ["WithGradient", "by_autograd", "differentiable"]

Tensor = torch.Tensor
Forward = Callable[[Inputs[Tensor]], tuple[Tensor, Batch[Tensor], Saved[Any]]]
Backward = Callable[[Inputs[Tensor], Saved[Any], Tensor], Gradients[Tensor]]
Reference = Callable[[Inputs[Tensor], Tensor], Gradients[Tensor]]
Step = Callable[[Inputs[Tensor]], tuple[Tensor, Batch[Tensor]]]


def by_autograd(
    forward: Forward, backward: Backward, reference: Reference, forward_mode: object = None
) -> Step:
    """`forward` with the gradient that PyTorch derives from its operations, to any order."""
    del backward, reference, forward_mode

    def step(inputs: Inputs[Tensor]) -> tuple[Tensor, Batch[Tensor]]:
        y, batch, _ = forward(inputs._replace(state=snapshot(inputs.state)))
        return y, _constant(batch)

    return step


def differentiable(
    forward: Forward, backward: Backward, reference: Reference, forward_mode: object = None
) -> Step:
    """`forward` with the gradient `backward`, whose own derivatives are those of `reference`."""
    del forward_mode

    def step(inputs: Inputs[Tensor]) -> tuple[Tensor, Batch[Tensor]]:
        if is_traced():
            return by_autograd(forward, backward, reference)(inputs)
        fields = [name for name in Gradients._fields if getattr(inputs, name) is not None]
        arrays: list[Tensor] = [getattr(inputs, name) for name in fields]
        if not is_recorded(*arrays):
            y, batch, _ = forward(inputs)
            return y, batch
        # Whoever owns the state may write into it before the gradient is asked for.
        state = {name: value.clone() for name, value in inputs.state.items()}
        left: list[Batch[Tensor]] = []

        def inputs_of(arrays: Sequence[Tensor]) -> Inputs[Tensor]:
            given: dict[str, Any] = dict.fromkeys(Gradients._fields)
            given.update(zip(fields, arrays, strict=True))
            return Inputs(**given, state=state)

        def run(*arrays: Tensor) -> tuple[Tensor, Sequence[Tensor], Saved[Any]]:
            y, batch, saved = forward(inputs_of(arrays))
            left.append(batch)
            return y, arrays, saved

        def pull(kept: Sequence[Tensor], saved: Saved[Any], dy: Tensor, _: Any) -> Sequence[Tensor | None]:
            given = inputs_of(kept)
            # The gradient may be differentiated again, so it must be computed from the inputs alone.
            again = torch.is_grad_enabled() or is_traced()
            found = reference(given, dy) if again else backward(given, saved, dy)
            return [getattr(found, name) for name in fields]

        y: Tensor = WithGradient.apply(run, pull, *arrays)  # pyright: ignore[reportAssignmentType]
        return y, _constant(left.pop())

    return step


class WithGradient(torch.autograd.Function):
    """`run(*arrays)` with the gradients `pull(kept, rest, dy, needed)`. Neither function may hold any of the arrays.

    `run` returns y, the arrays to keep (which PyTorch watches and checkpointing computes again), and the small rest
    that `pull` needs. `needed` says for each array whether its gradient is needed.
    """

    @staticmethod
    def forward(
        ctx: Any, run: Callable[..., Any], pull: Callable[..., Any], *arrays: Tensor | None
    ) -> Tensor:
        y, kept, ctx.rest = run(*arrays)
        ctx.save_for_backward(*kept)
        ctx.pull = pull
        return y

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        return None, None, *ctx.pull(ctx.saved_tensors, ctx.rest, outputs[0], ctx.needs_input_grad[2:])


def _constant(batch: Batch[Tensor]) -> Batch[Tensor]:
    """No gradient flows through the moving averages."""
    return Batch(*(None if value is None else value.detach() for value in batch))  # pyright: ignore[reportArgumentType]
