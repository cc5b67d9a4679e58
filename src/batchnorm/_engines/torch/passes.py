"""The PyTorch engine: the CPU kernels where they can go, then PyTorch's own, the composed passes elsewhere.

A module with the names that the engine protocol asks for. Wherever the program is traced or transformed every pass
is the composed one, which PyTorch can differentiate, compile and export; but a plain step on large inputs is compiled
as one operation of ours.
"""

from typing import Any

import torch

from batchnorm._engines.composed import Composed
from batchnorm._engines.protocol import GradTerms, Moments, Saved
from batchnorm._engines.torch import kernels, library, native, ops
from batchnorm._engines.torch.differentiable import by_autograd, differentiable
from batchnorm._engines.torch.kernels import fused_infer
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


def moments(x: Tensor, weights: Tensor | None, layout: Layout) -> Moments[Tensor]:
    """Mean and mean squared deviation, in PyTorch's own two passes where there are no kernels and no weights."""
    done = native.moments(x, weights, layout)
    if done is not None:
        return done
    # Of tensors without numbers PyTorch's sums have shapes, and its two passes have none.
    if weights is not None or x.is_meta or type(x) not in native.TYPES or not kernels.fits(x, layout):
        return composed.moments(x, weights, layout)
    total = float(layout.count)
    return Moments(total, total, *kernels.statistics(x, layout))


def apply(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, layout: Layout) -> Tensor:
    done = native.apply(x, mean, scale, shift, layout)
    return composed.apply(x, mean, scale, shift, layout) if done is None else done


def grad_sums(dy: Tensor, x: Tensor, mean: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    done = native.grad_sums(dy, x, mean, layout)
    return composed.grad_sums(dy, x, mean, layout) if done is None else done


def grad_input(
    dy: Tensor, x: Tensor, weights: Tensor | None, mean: Tensor, terms: GradTerms[Tensor], layout: Layout
) -> Tensor:
    done = native.grad_input(dy, x, weights, mean, terms, layout)
    return composed.grad_input(dy, x, weights, mean, terms, layout) if done is None else done


def fused_train(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, layout: Layout
) -> tuple[Tensor, Moments[Tensor], Tensor] | None:
    if library.prefers_library(x):
        return library.train(x, gamma, beta, epsilon, layout)
    done = native.fused_train(x, gamma, beta, epsilon, layout)
    return kernels.fused_train(x, gamma, beta, epsilon, layout) if done is None else done


def fused_gradients(
    dy: Tensor, x: Tensor, saved: Saved[Tensor], epsilon: float, layout: Layout
) -> tuple[Tensor, Tensor, Tensor] | None:
    done = native.fused_gradients(dy, x, saved, epsilon, layout)
    return kernels.fused_gradients(dy, x, saved, epsilon, layout) if done is None else done


def grad_weights(
    x: Tensor, weights: Tensor, mean: Tensor, variance: Tensor, terms: GradTerms[Tensor], layout: Layout
) -> Tensor | None:
    """The gradient of the weights, where it is asked for: of a mask it hardly ever is."""
    if not weights.requires_grad:
        return None
    return composed.grad_weights(x, weights, mean, variance, terms, layout)
