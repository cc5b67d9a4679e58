"""Inference by running statistics: the quickest way that loses no digits, and statistics that a gradient may keep."""

from typing import Any
from weakref import WeakKeyDictionary

import torch

from batchnorm._core.engine import Epilogue
from batchnorm._core.epilogue import follow
from batchnorm._engines.torch import cpu_kernels, dispatch, ops
from batchnorm._engines.torch.aten import batch_norm
from batchnorm._engines.torch.private import is_watched, version_of
from batchnorm._engines.torch.tracing import EXACT_TYPES, is_recorded, is_traced

__all__ = ["for_gradient", "infer"]

Tensor = torch.Tensor

# Up to this many deviations between the mean and zero, PyTorch's inference operation is accurate to about 1e-6.
FAR = 16.0
_distances: WeakKeyDictionary[object, tuple[Any, bool]] = WeakKeyDictionary()


def infer(
    owner: object,
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
    epilogue: Epilogue[Tensor] | None = None,
) -> Tensor:
    """Normalize by running statistics, along axis 1, and what follows. `owner` is the layer that they belong to.

    PyTorch's operation on a CPU multiplies before it subtracts. If a mean is so far from zero that this would lose
    digits, our kernel runs instead, or plain operations if a gradient is recorded: both subtract first. Our kernel
    also takes large inputs, unless a gradient is recorded.
    """
    traced = is_traced()
    if not cpu_kernels.prefers_operation(x) and (
        traced or x.numel() >= dispatch.LARGE_INPUT or _is_far(owner, mean, variance, epsilon)
    ):
        y = cpu_kernels.infer(x, gamma, beta, mean, variance, epsilon, (1,), epilogue)
        if y is not None:
            return y
        if traced or _is_far(owner, mean, variance, epsilon):
            along = (1, -1, *[1] * (x.dim() - 2))
            scale = torch.rsqrt(variance + epsilon)
            scale = scale if gamma is None else scale * gamma
            y = (x.to(scale.dtype) - mean.reshape(along)) * scale.reshape(along)
            return follow(ops, y if beta is None else y + beta.reshape(along), epilogue).to(x.dtype)
    mean, variance = for_gradient((mean, variance), x, gamma, beta)
    return follow(ops, batch_norm(x, gamma, beta, mean, variance, False, 0.0, epsilon), epilogue)


def for_gradient(statistics: tuple[Tensor, ...], *given: Tensor | None) -> tuple[Tensor, ...]:
    """Running statistics that a gradient may keep: copies, if PyTorch records one for the given tensors.

    A training step before the backward pass moves the originals. PyTorch's own kernel does not report that, and its
    layers then compute the gradient from the moved statistics. Exporters and tracers get the originals.
    """
    if not is_recorded(*given) or is_traced() or is_watched():
        return statistics
    return tuple(value.clone() for value in statistics)


def _is_far(owner: object, mean: Tensor, variance: Tensor, epsilon: float) -> bool:
    """Whether a mean is more than FAR deviations from zero, computed again only if the statistics have changed."""
    if type(mean) not in EXACT_TYPES or mean.is_inference() or variance.is_inference():
        return False
    known = (id(mean), version_of(mean), id(variance), version_of(variance), epsilon)
    if _distances.get(owner, (None,))[0] != known:
        with torch.no_grad():
            far = (mean * torch.rsqrt(variance + epsilon)).abs().amax()
            _distances[owner] = known, bool(far > FAR)
    return _distances[owner][1]
