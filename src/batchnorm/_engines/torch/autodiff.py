"""Our own gradient for PyTorch: first order by the core's formulas, higher orders by deriving those."""

# Compilers that trace Python cannot evaluate the annotations of functions that are made on the way.
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from batchnorm._core.engine import Batch, Gradients, Inputs, Saved
from batchnorm._engines.torch.snapshot import snapshot
from batchnorm._engines.torch.tracing import is_traced

__all__ = ["by_autograd", "differentiable"]

Tensor = torch.Tensor
Forward = Callable[[Inputs[Tensor]], tuple[Tensor, Batch[Tensor], Saved[Tensor]]]
Backward = Callable[[Inputs[Tensor], Saved[Tensor], Tensor], Gradients[Tensor]]
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
        if not torch.is_grad_enabled() or not any(array.requires_grad for array in arrays):
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

    def chosen(self, gradients: Gradients[Tensor]) -> tuple[Tensor, ...]:
        return tuple(getattr(gradients, name) for name in self.fields)


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, *arrays: Tensor) -> Tensor:
        y, batch, saved = plan.forward(plan.inputs(arrays))
        plan.batches.append(batch)
        tensors = [value for value in saved if isinstance(value, Tensor)]
        ctx.save_for_backward(*arrays, *tensors)
        ctx.plan, ctx.count = plan, len(arrays)
        # The tensors' fields, and the values of the other fields.
        rest: list[Any] = [None if isinstance(value, Tensor) else value for value in saved]
        ctx.saved = Saved(*rest)
        ctx.places = [name for name, value in saved._asdict().items() if isinstance(value, Tensor)]
        return y

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        # Read once: checkpointing recomputes them, and hands them out one time.
        kept = ctx.saved_tensors
        arrays, tensors = kept[: ctx.count], kept[ctx.count :]
        saved = ctx.saved._replace(**dict(zip(ctx.places, tensors, strict=True)))
        if not torch.is_grad_enabled():
            # Nobody will derive the gradient again.
            plan: _Plan = ctx.plan
            return None, *plan.chosen(plan.backward(plan.inputs(arrays), saved, outputs[0]))
        return None, *_Pull.apply(ctx.plan, saved, outputs[0], *arrays)  # pyright: ignore[reportGeneralTypeIssues]


class _Pull(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, saved: Saved[Tensor], dy: Tensor, *arrays: Tensor) -> Any:
        ctx.plan = plan
        ctx.save_for_backward(dy, *arrays)
        return plan.chosen(plan.backward(plan.inputs(arrays), saved, dy))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            dy, *arrays = (_source(value) for value in ctx.saved_tensors)
            targets = ctx.plan.chosen(ctx.plan.reference(ctx.plan.inputs(arrays), dy))
            pairs = [
                (target, up)
                for target, up in zip(targets, upstream, strict=True)
                if target is not None and up is not None and target.requires_grad
            ]
            found = torch.autograd.grad(
                [target for target, _ in pairs],
                [dy, *arrays],
                [up for _, up in pairs],
                create_graph=again,
                allow_unused=True,
            )
        return None, None, *found


def _source(value: Tensor) -> Tensor:
    """The value to derive by, still connected to what it came from if a higher derivative may follow."""
    return value.view_as(value) if value.requires_grad else value.detach().requires_grad_()


def _constant(batch: Batch[Tensor]) -> Batch[Tensor]:
    """No gradient flows through the moving averages."""
    values: list[Any] = [None if value is None else value.detach() for value in batch]
    return Batch(*values)
