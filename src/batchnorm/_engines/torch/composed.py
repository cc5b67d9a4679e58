"""The composed passes in PyTorch's operations, which PyTorch can differentiate to any order, compile and export."""

from typing import Any

import torch
import torch.distributed as dist

from batchnorm._core.composed import Composed
from batchnorm._core.engine import Epilogue, GradTerms
from batchnorm._engines.torch import ops
from batchnorm._engines.torch.autodiff import by_autograd
from batchnorm.layout import Layout

__all__ = ["PlainOperations", "composed", "sum_over_replicas"]

Tensor = torch.Tensor


class PlainOperations(Composed[Any]):
    """The passes that all frameworks share; outputs are never views, even if they were reshaped."""

    def apply(
        self,
        x: Tensor,
        mean: Tensor,
        scale: Tensor,
        shift: Tensor,
        layout: Layout,
        epilogue: Epilogue[Tensor] | None = None,
    ) -> Tensor:
        return ops.as_own(super().apply(x, mean, scale, shift, layout, epilogue))

    def grad_weights(
        self,
        x: Tensor,
        weights: Tensor,
        center: Tensor,
        offset: Tensor,
        variance: Tensor,
        terms: GradTerms[Tensor],
        layout: Layout,
    ) -> Tensor | None:
        """The gradient of the weights, if it is requested: that of a mask hardly ever is."""
        if not weights.requires_grad:
            return None
        return super().grad_weights(x, weights, center, offset, variance, terms, layout)


def sum_over_replicas(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values, all of one shape, summed over all processes in one exchange; unchanged if there is one process."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return values
    # The differentiable one: higher derivatives go through it.
    from torch.distributed.nn import functional

    return functional.all_reduce(torch.stack(values)).unbind()


composed: Composed[Any] = PlainOperations(ops, by_autograd, sum_over_replicas)
