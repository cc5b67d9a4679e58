"""The PyTorch engine: its own kernels where they fit, the composed passes elsewhere.

A module with the names that the engine protocol asks for. Wherever the program is traced or transformed every pass
is the composed one, which PyTorch can differentiate, compile and export.
"""

from typing import Any

import torch

from batchnorm._engines.composed import Composed
from batchnorm._engines.protocol import GradTerms, Moments
from batchnorm._engines.torch import kernels, ops
from batchnorm._engines.torch.differentiable import by_autograd, differentiable
from batchnorm._engines.torch.kernels import fused_gradients, fused_infer, fused_train
from batchnorm._engines.torch.replicas import sum_over_replicas
from batchnorm.layout import Layout

__all__ = [
    "apply",
    "composed",
    "differentiable",
    "fused_gradients",
    "fused_infer",
    "fused_train",
    "grad_input",
    "grad_sums",
    "grad_weights",
    "moments",
    "ops",
    "sum_over_replicas",
]

Tensor = torch.Tensor

composed: Composed[Any] = Composed(ops, by_autograd, sum_over_replicas)  # pyright: ignore[reportArgumentType]

apply = composed.apply
grad_sums = composed.grad_sums
grad_input = composed.grad_input


def moments(x: Tensor, weights: Tensor | None, layout: Layout) -> Moments[Tensor]:
    """Mean and mean squared deviation, in PyTorch's own two passes where there are no weights."""
    if weights is not None or not kernels.fits(x, layout):
        return composed.moments(x, weights, layout)
    total = float(layout.count)
    return Moments(total, total, *kernels.statistics(x, layout))


def grad_weights(
    x: Tensor, weights: Tensor, mean: Tensor, variance: Tensor, terms: GradTerms[Tensor], layout: Layout
) -> Tensor | None:
    """The gradient of the weights, where it is asked for: of a mask it hardly ever is."""
    if not weights.requires_grad:
        return None
    return composed.grad_weights(x, weights, mean, variance, terms, layout)
