"""The view of a layout as a block [rows, length, width]: the length is summed over, the width stays.

Every layout is one of two cases, since runs of one element vanish and neighbors that are kept (ghost groups
beside channels) merge:

    last run kept       [..., length, width]      sums down columns
    last run reduced    [..., length], width 1    sums along rows

The runs before them are the rows. If some of those are reduced as well, sums per row still have to be
merged, and a statistic has to be repeated for every row that shares it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

from batchnorm._core.composed import to_view
from batchnorm._engines.tensorflow import ops
from batchnorm.layout import Layout, Size, product

__all__ = ["Block", "plan_block"]

Tensor = Any


@dataclass(frozen=True)
class Block:
    """Which runs of a layout's view make up each dimension of the block.

    Attributes:
        layout: the layout.
        rows: for each group of neighboring runs before the last two: whether it is reduced, and its runs.
        length: the runs to sum over.
        width: the runs that stay, beside each other.
    """

    layout: Layout
    rows: tuple[tuple[bool, tuple[int, ...]], ...]
    length: tuple[int, ...]
    width: tuple[int, ...]

    @property
    def parts(self) -> tuple[tuple[int, ...], ...]:
        """The runs of each of the three dimensions."""
        return tuple(run for _, runs in self.rows for run in runs), self.length, self.width

    @property
    def shape(self) -> tuple[Size, Size, Size]:
        rows, length, width = (self._size(part) for part in self.parts)
        return rows, length, width

    def view(self, x: Tensor) -> Tensor:
        """x as the block."""
        if self.layout.permutation is not None:
            x = to_view(ops, x, self.layout)
        return ops.reshape(x, self.shape)

    def restore(self, y: Tensor) -> Tensor:
        """A block in the shape of the input."""
        order, split = self.layout.permutation, self.layout.split
        if order is not None:
            y = ops.reshape(y, [split[axis] for axis in order])
            y = ops.transpose(y, [order.index(axis) for axis in range(len(order))])
        return ops.reshape(y, self.layout.shape)

    def spread(self, statistic: Tensor) -> Tensor:
        """A statistic [G, C] as [rows, 1, width]."""
        rows, _, width = self.shape
        if self._is_merged:
            own = [1 if reduced else self._size(runs) for reduced, runs in self.rows]
            every = [self._size(runs) for _, runs in self.rows]
            statistic = ops.broadcast_to(ops.reshape(statistic, (*own, width)), (*every, width))
        return ops.reshape(statistic, (rows, 1, width))

    def merge(self, sums: Tensor) -> Tensor:
        """Sums [rows, width] as a statistic [G, C]. Repeats may have been merged already."""
        _, _, width = self.shape
        if self._is_merged:
            sizes = [self._size(runs) for _, runs in self.rows]
            if self.rows[0][0]:
                # An empty batch has no rows to divide among no groups.
                rest = product(sizes[1:])
                rest = max(rest, 1) if isinstance(rest, int) else ops.maximum(rest, 1)
                sizes[0] = ops.shape(sums)[0] // rest
            sums = ops.reshape(sums, (*sizes, width))
            sums = ops.sum(sums, [axis for axis, (reduced, _) in enumerate(self.rows) if reduced])
        return ops.reshape(sums, (self.layout.ghosts, self.layout.channels))

    @property
    def repeats(self) -> Size:
        """How many times the same series of statistics repeats down the rows."""
        return self._size(self.rows[0][1]) if self.rows and self.rows[0][0] else 1

    @property
    def merged(self) -> Size:
        """How many rows share a statistic."""
        return product(self._size(runs) for reduced, runs in self.rows if reduced)

    def weights(self, weights: Tensor, dtype: Any) -> Tensor:
        """Weights that broadcast to the input, as a block with dimensions of 1 where they repeat."""
        layout = self.layout
        moved = len(layout.split) - len(layout.shape)
        once = [_is_one(size) for size in ops.shape(weights)]
        # A size that is only known at run time may be 1 then.
        weights = ops.broadcast_to(weights, _only(layout.shape, once))
        split = _only(layout.split, [once[max(axis - moved, 0)] for axis in range(len(layout.split))])
        weights = ops.reshape(ops.cast(weights, dtype), split)
        # First whole runs, then whole dimensions of the block, so that no broadcast has many dimensions.
        repeat = {run: all(_is_one(split[axis]) for axis in axes) for run, axes in enumerate(layout.runs)}
        apart = {axis for run, axes in enumerate(layout.runs) if repeat[run] for axis in axes}
        weights = ops.broadcast_to(weights, _only(layout.split, map(apart.__contains__, range(len(split)))))
        if layout.permutation is not None:
            weights = ops.transpose(weights, layout.permutation)
        runs = [run for part in self.parts for run in part]
        sizes = [layout.view[run] for run in runs]
        weights = ops.reshape(weights, _only(sizes, [repeat[run] for run in runs]))
        narrow = [all(repeat[run] for run in part) for part in self.parts]
        spread = [alone for part, alone in zip(self.parts, narrow, strict=True) for _ in part]
        return ops.reshape(ops.broadcast_to(weights, _only(sizes, spread)), _only(self.shape, narrow))

    @property
    def _is_merged(self) -> bool:
        return any(reduced for reduced, _ in self.rows)

    def _size(self, runs: Iterable[int]) -> Size:
        return product(self.layout.view[run] for run in runs)


def plan_block(layout: Layout) -> Block:
    """The block of a layout."""
    return _plan_known(layout) if all(isinstance(size, int) for size in layout.view) else _plan(layout)


def _plan(layout: Layout) -> Block:
    present = [run for run, size in enumerate(layout.view) if not _is_one(size)]
    groups = [(key, tuple(runs)) for key, runs in groupby(present, key=layout.reduced.__contains__)]
    width = groups.pop()[1] if groups and not groups[-1][0] else ()
    length = groups.pop()[1] if groups else ()
    return Block(layout, tuple(groups), length, width)


_plan_known = lru_cache(maxsize=1024)(_plan)


def _only(sizes: Iterable[Size], once: Iterable[bool]) -> list[Size]:
    """The sizes, with 1 in the places that are marked."""
    return [1 if alone else size for size, alone in zip(sizes, once, strict=True)]


def _is_one(size: Size) -> bool:
    return isinstance(size, int) and size == 1
