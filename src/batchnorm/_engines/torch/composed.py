"""The composed passes in PyTorch's operations, which PyTorch can differentiate to any order, compile and export."""

from typing import Any

import torch

from batchnorm._core.composed import Composed
from batchnorm._engines.torch import ops
from batchnorm._engines.torch.block import as_own
from batchnorm._engines.torch.differentiable import by_autograd
from batchnorm._engines.torch.replicas import sum_over_replicas
from batchnorm.layout import Layout

__all__ = ["composed"]

Tensor = torch.Tensor


class _Composed(Composed[Any]):
    """The passes of every framework, with results that are not views although they have been reshaped."""

    def apply(self, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, layout: Layout) -> Tensor:
        return as_own(super().apply(x, mean, scale, shift, layout))


composed: Composed[Any] = _Composed(ops, by_autograd, sum_over_replicas)
