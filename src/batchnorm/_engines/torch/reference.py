"""The composed passes in PyTorch's operations, which PyTorch can differentiate to any order, compile and export."""

from typing import Any

from batchnorm._engines.composed import Composed
from batchnorm._engines.torch import ops
from batchnorm._engines.torch.differentiable import by_autograd
from batchnorm._engines.torch.replicas import sum_over_replicas

__all__ = ["composed"]

composed: Composed[Any] = Composed(ops, by_autograd, sum_over_replicas)  # pyright: ignore[reportArgumentType]
