"""Our own gradient for PyTorch: first order by the core's formulas, higher orders by deriving those."""

# Compilers that trace Python cannot evaluate the annotations of functions that are made on the way.
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from batchnorm._core.engine import Batch, Gradients, Inputs, Saved
from batchnorm._engines.torch.tracing import is_recorded, is_traced, snapshot

__all__ = ["by_autograd", "differentiable"]

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
        plan = _Plan(forward, backward, reference, state, fields, [])
        y: Tensor = _Step.apply(plan, *arrays)  # pyright: ignore[reportAssignmentType]
        return y, _constant(plan.batches.pop())

    return step


class _Plan(NamedTuple):
    """What is known of a step besides its arrays, none of which it holds."""

    forward: Forward
    backward: Backward
    reference: Reference
    state: dict[str, Tensor]
    fields: list[str]
    batches: list[Batch[Tensor]]

    def inputs(self, arrays: Sequence[Tensor]) -> Inputs[Tensor]:
        given: dict[str, Any] = dict.fromkeys(Gradients._fields)
        given.update(zip(self.fields, arrays, strict=True))
        return Inputs(**given, state=self.state)


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, *arrays: Tensor) -> Tensor:
        # What the gradient needs besides the inputs is small, and nobody else has it.
        y, batch, ctx.saved = plan.forward(plan.inputs(arrays))
        plan.batches.append(batch)
        ctx.save_for_backward(*arrays)
        ctx.plan = plan
        return y

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        plan: _Plan = ctx.plan
        inputs = plan.inputs(ctx.saved_tensors)
        if torch.is_grad_enabled() or is_traced():
            # Somebody may derive the gradient again, from the inputs alone.
            found = plan.reference(inputs, outputs[0])
        else:
            found = plan.backward(inputs, ctx.saved, outputs[0])
        return None, *(getattr(found, name) for name in plan.fields)


def _constant(batch: Batch[Tensor]) -> Batch[Tensor]:
    """No gradient flows through the moving averages."""
    return Batch(*(None if value is None else value.detach() for value in batch))  # pyright: ignore[reportArgumentType]
