"""The view of a layout that PyTorch's kernels take: [outer, groups × channels, inner].

Most layouts lie in memory like this. Ghost groups that are apart from the channels cost one copy each way:

    channels first             [N, C, H·W]        as it is
    channels last              [N·H·W, C]         as it is
    interleaved, first or flat [v, G, C, H·W]     as it is, G and C as one
    contiguous, flat           [G, v, C]          moved to [v, G, C]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from batchnorm._engines.torch.private import is_view, unsafe_view
from batchnorm._engines.torch.tracing import EXACT_TYPES, is_traced
from batchnorm.layout import Layout, Size, product

__all__ = [
    "Block",
    "as_own",
    "plan_block",
]

Tensor = torch.Tensor


@dataclass(frozen=True)
class Block:
    """One planned view.

    Attributes:
        layout: the layout.
        split: the shape to move axes in.
        order: the axes of `split` in the order of the view; None if they are in it already.
        shape: [outer, width, inner], without an inner dimension of 1.
    """

    layout: Layout
    split: tuple[Size, ...]
    order: tuple[int, ...] | None
    shape: tuple[Size, ...]

    @property
    def width(self) -> Size:
        """Groups times channels."""
        return self.shape[1]

    def view(self, x: Tensor) -> Tensor:
        """x as the block, dense."""
        if self.order is not None:
            x = x.reshape(self.split).permute(self.order)
        x = x.reshape(self.shape)
        return x if x.is_contiguous() else x.contiguous()

    def restore(self, y: Tensor) -> Tensor:
        """A block in the shape of the input."""
        if self.order is not None:
            y = y.reshape([self.split[axis] for axis in self.order])
            y = y.permute(sorted(range(len(self.order)), key=self.order.__getitem__)).contiguous()
        return as_own(y, self.layout.shape)

    def grouped(self, statistic: Tensor) -> Tensor:
        """A statistic of the block as [G, C]."""
        return statistic.reshape(self.layout.ghosts, self.layout.channels)

    def spread(self, parameter: Tensor | None) -> Tensor | None:
        """gamma or beta, [C], for every group."""
        if parameter is None or self.width == self.layout.channels:
            return parameter
        # Tensor.repeat would take three times as long.
        return parameter.expand(self.layout.ghosts, -1).reshape(-1)


def plan_block(layout: Layout) -> Block:
    """The block of a layout."""
    known = not torch.compiler.is_compiling() and all(type(size) is int for size in layout.shape)
    return _plan_known(layout) if known else _plan(layout)


def _plan(layout: Layout) -> Block:
    runs = range(len(layout.view))
    kept = [run for run in runs if run not in layout.reduced]
    together = layout.permutation is None and kept == list(range(kept[0], kept[-1] + 1))
    if together:
        sizes = [product(layout.view[run] for run in part) for part in _parts(runs, kept)]
        return Block(layout, layout.split, None, _trim(sizes))
    moved = len(layout.split) - len(layout.shape)
    axes = [axis + moved for axis in layout.axes]
    if moved:
        # The groups come before the channels: their axis is the run that is kept and is no channel.
        ghost = [axis for run in kept for axis in layout.runs[run] if axis not in axes]
        axes = [*ghost, *axes]
    rest = [axis for axis in range(len(layout.split)) if axis not in axes]
    inner = [axis for axis in rest if axis > max(axes)]
    outer = [axis for axis in rest if axis not in inner]
    sizes = [product(layout.split[axis] for axis in part) for part in (outer, axes, inner)]
    return Block(layout, layout.split, (*outer, *axes, *inner), _trim(sizes))


_plan_known = lru_cache(maxsize=1024)(_plan)


def _parts(runs: range, kept: list[int]) -> tuple[range, range, range]:
    first, last = kept[0], kept[-1] + 1
    return runs[:first], runs[first:last], runs[last:]


def _trim(sizes: list[Size]) -> tuple[Size, ...]:
    return tuple(sizes[:2]) if type(sizes[2]) is int and sizes[2] == 1 else tuple(sizes)


def as_own(y: Tensor, shape: Sequence[Size] | None = None) -> Tensor:
    """A new y in this shape, as a tensor that is not a view.

    PyTorch also records in-place operations on a view for its base tensor, and copies whole gradients to do so.
    Nothing else refers to the base of y.
    """
    shape = y.shape if shape is None else shape
    if is_traced():
        return y.reshape(shape)
    if not is_view(y) and y.shape == shape:
        return y
    if not y.is_contiguous() and type(y) not in EXACT_TYPES:
        # Some tensors, such as DTensor, have no views with another memory order.
        return y.reshape(shape).clone()
    return unsafe_view(y, shape)
