"""Batches that are not a multiple of the ghost size: padded with examples of zero weight, which are cut off again.

All groups then have the same size, as every pass requires, and the padding does not count: not in the statistics, the
moving averages or the gradients.
"""

from collections.abc import Sequence
from dataclasses import replace

from batchnorm._core.adjustment import Adjustment
from batchnorm._core.engine import A, Inputs, Ops
from batchnorm.layout import Layout, Size

__all__ = ["fill", "is_filled", "without_padding"]


def is_filled(layout: Layout) -> bool:
    """Whether the batch needs padding; True for a batch of unknown size, which may need it."""
    return not (isinstance(layout.padding, int) and layout.padding == 0)


def without_padding(layout: Layout) -> Layout:
    """The layout of the padded batch."""
    return replace(layout, padding=0)


def fill(
    ops: Ops[A], layout: Layout, inputs: Inputs[A], adjustment: Adjustment[A] | None = None
) -> tuple[Inputs[A], Adjustment[A] | None]:
    """The inputs with the examples that the layout adds, and weights that are zero for these."""
    x, weights = inputs.x, inputs.weights
    batch = ops.shape(x)[0]
    if weights is None:
        rank = len(layout.shape)
        zeros = ops.cast(ops.zeros_like(ops.first(x, 1)), ops.stat_dtype(x))
        weights = ops.reshape(ops.sum(zeros, range(rank)) + 1.0, [1] * rank)
    shape = ops.shape(weights)
    weights = ops.broadcast_to(weights, (batch, *shape[1:]))
    filled = inputs._replace(
        x=ops.append_zeros(x, layout.padding),
        weights=ops.append_zeros(weights, layout.padding),
        residual=None if inputs.residual is None else ops.append_zeros(inputs.residual, layout.padding),
    )
    if adjustment is not None:
        adjustment = Adjustment(*(_fill_one(ops, value, layout) for value in adjustment))
    return filled, adjustment


def _fill_one(ops: Ops[A], value: A, layout: Layout) -> A:
    """A factor or an offset, padded if it may differ from example to example."""
    shape: Sequence[Size] = ops.shape(value)
    repeats = len(shape) < len(layout.shape) or (isinstance(shape[0], int) and shape[0] == 1)
    return value if repeats else ops.append_zeros(value, layout.padding)
