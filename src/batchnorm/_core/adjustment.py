"""The adjustment: a random factor and offset between normalization and gamma and beta (ResNet-style augmentation).

    y = γ·(a_s·z + a_b) + β      z the normalized (and renormalized) input

If a_s and a_b do not vary within a channel, they fold into γ' = γ·a_s and β' = γ·a_b + β, and the step costs nothing
extra. Otherwise they are applied to the result of a step without gamma and beta. Both ways use the framework's own
arithmetic, so that gradients flow to a_s and a_b as well.
"""

from collections.abc import Sequence
from typing import Generic, NamedTuple

from batchnorm._core.engine import A, Inputs, Ops
from batchnorm.layout import Layout, Size

__all__ = ["Adjustment", "adjust", "fold_adjustment"]


class Adjustment(NamedTuple, Generic[A]):
    """Factor a_s and offset a_b, each broadcasting to the input's own shape."""

    scale: A
    bias: A


def fold_adjustment(
    ops: Ops[A], adjustment: Adjustment[A], inputs: Inputs[A], layout: Layout
) -> Inputs[A] | None:
    """The inputs with the adjustment folded into gamma and beta; None if it varies within a channel."""
    if not all(_is_per_channel(ops.shape(value), layout) for value in adjustment):
        return None
    scale, bias = (_flatten(ops, value, layout) for value in adjustment)
    gamma, beta = inputs.gamma, inputs.beta
    moved = bias if gamma is None else gamma * bias
    return inputs._replace(
        gamma=scale if gamma is None else gamma * scale, beta=moved if beta is None else moved + beta
    )


def adjust(ops: Ops[A], z: A, adjustment: Adjustment[A], inputs: Inputs[A], layout: Layout) -> A:
    """γ·(a_s·z + a_b) + β, in the input's own shape and the statistics' dtype, which z has."""
    channels = tuple(size if axis in layout.axes else 1 for axis, size in enumerate(layout.shape))
    y = z * adjustment.scale + adjustment.bias
    if inputs.gamma is not None:
        y = y * ops.reshape(inputs.gamma, channels)
    if inputs.beta is not None:
        y = y + ops.reshape(inputs.beta, channels)
    return y


def _is_per_channel(shape: Sequence[Size], layout: Layout) -> bool:
    rank = len(layout.shape)
    first = rank - len(shape)
    off_channel = [size for axis, size in enumerate(shape, start=first) if axis not in layout.axes]
    return first >= 0 and all(isinstance(size, int) and size == 1 for size in off_channel)


def _flatten(ops: Ops[A], value: A, layout: Layout) -> A:
    rank, shape = len(layout.shape), ops.shape(value)
    full = (*(1 for _ in range(rank - len(shape))), *shape)
    channels = tuple(size if axis in layout.axes else 1 for axis, size in enumerate(layout.shape))
    return ops.reshape(ops.broadcast_to(ops.reshape(value, full), channels), (layout.channels,))
