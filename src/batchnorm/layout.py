"""Where the numbers lie: axes and a shape become one view of alternating reduced and kept runs.

Adjacent axes of one kind merge into a run, so that every legal call is one of a few small cases:

    channels last        [N, H, W, C], axes (3,)          →  view [N·H·W, C]      reduced 0
    channels first       [N, C, H, W], axes (1,)          →  view [N, C, H·W]     reduced 0, 2
    ghosts, interleaved  [N, H, W, C], axes (3,), size v  →  view [v, G, H·W, C]  reduced 0, 2
    ghosts, contiguous   [N, H, W, C], axes (3,), size v  →  view [G, v·H·W, C]   reduced 1
    both                 [N, C, H, W], axes (1,), size v  →  view [v, G, C, H·W]  reduced 0, 3
    two axes apart       [N, H, W, C], axes (1, 3)        →  view [N, H, W, C]    reduced 0, 2

Statistics are [G, C] throughout: ghost groups (1 without ghosts) by channels (the product of the kept axes, in
row-major order). No number is moved: a view is a reshape. Only three or more kept runs cost a permutation, which
`permutation` then gives.

Sizes are ints where known. An unknown size may be any object that multiplies and divides (a scalar tensor).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Any, Generic, TypeVar

from batchnorm.errors import format_error
from batchnorm.options import Ghost

__all__ = [
    "Layout",
    "Size",
    "canonical_axes",
    "plan_in_memory",
    "plan_layout",
    "product",
    "refuse_ghost_axis",
    "with_sizes",
]

Size = Any
Value = TypeVar("Value")
MAX_KEPT_RUNS = 2


class _once(Generic[Value]):  # noqa: N801  # reads as the decorator that it is
    """`functools.cached_property` without the lock of Python 3.11, which compilers that trace Python cannot enter."""

    def __init__(self, function: Callable[[Any], Value]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type | None = None) -> Value:
        value = self.function(instance)
        instance.__dict__[self.function.__name__] = value
        return value


@dataclass(frozen=True)
class Layout:
    """One planned view.

    Attributes:
        shape: the input's shape.
        split: the shape with the batch axis divided into groups; the same as `shape` without ghosts.
        runs: axes of `split`, in the order of the view, that make up each run.
        reduced: which runs are reduced.
        axes: the channel axes, as positions in `shape`.
        ghosts: number of groups, 1 without ghosts.
        ghost: the ghost batches, with the size of the groups if it is known, so that another order of the axes can be
            planned; None without ghosts.
        padding: examples of zero weight to be added to the input's to give `shape`, for groups of equal size.
        order: the input's axes in the order of its memory; all else describes the input with its axes in that order.
            None if it is their own.
    """

    shape: tuple[Size, ...]
    split: tuple[Size, ...]
    runs: tuple[tuple[int, ...], ...]
    reduced: tuple[int, ...]
    axes: tuple[int, ...]
    ghosts: Size
    ghost: Ghost | None = None
    padding: Size = 0
    order: tuple[int, ...] | None = None

    @_once
    def reordered(self) -> "Layout":
        """The layout of an input whose axes have been brought in the order of memory."""
        return self if self.order is None else replace(self, order=None)

    @_once
    def inverse_order(self) -> tuple[int, ...]:
        """What brings axes in the order of memory back into their own."""
        order = range(len(self.shape)) if self.order is None else self.order
        return tuple(sorted(range(len(order)), key=order.__getitem__))

    @_once
    def permutation(self) -> tuple[int, ...] | None:
        """The order of the axes of `split` that makes the view possible; None if they are in it already."""
        order = tuple(axis for run in self.runs for axis in run)
        return None if order == tuple(range(len(order))) else order

    @_once
    def view(self) -> tuple[Size, ...]:
        """Sizes of the runs."""
        return self._sizes(self.split)

    @_once
    def stat_view(self) -> tuple[Size, ...]:
        """The shape in which a statistic [G, C] broadcasts against the view."""
        return tuple(1 if run in self.reduced else size for run, size in enumerate(self.view))

    @_once
    def channels(self) -> Size:
        """How many channels: the product of the kept axes."""
        return product(self.shape[axis] for axis in self.axes)

    @_once
    def count(self) -> Size:
        """How many numbers go into one statistic."""
        return product(self.view[run] for run in self.reduced)

    @_once
    def weight_shape(self) -> tuple[Size, ...]:
        """The shape of weights that are the same for all channels: the input's with 1 on the channel axes."""
        return tuple(1 if axis in self.axes else size for axis, size in enumerate(self.shape))

    @_once
    def weight_split(self) -> tuple[Size, ...]:
        """`split` for such weights."""
        moved = len(self.split) - len(self.shape)
        kept = {axis + moved for axis in self.axes}
        return tuple(1 if axis in kept else size for axis, size in enumerate(self.split))

    @_once
    def weight_view(self) -> tuple[Size, ...]:
        """`view` for such weights."""
        return self._sizes(self.weight_split)

    @_once
    def unknown(self) -> dict[str, Size]:
        """The sizes that are arrays, because they are only known at run time, by position."""
        places = {"ghosts": self.ghosts}
        for name, sizes in (("shape", self.shape), ("split", self.split)):
            places.update((f"{name} {axis}", size) for axis, size in enumerate(sizes))
        return {place: size for place, size in places.items() if _is_array(size)}

    def _sizes(self, shape: Sequence[Size]) -> tuple[Size, ...]:
        return tuple(product(shape[axis] for axis in run) for run in self.runs)


def plan_layout(
    shape: Sequence[Size], axes: Sequence[int], ghost: Ghost | None = None, *, cached: bool = True
) -> Layout:
    """Plan the view of an input.

    Args:
        shape: the input's sizes, ints where known.
        axes: the channel axes; negative ones count from the end.
        ghost: ghost batches to divide axis 0 into, or None.
        cached: look known shapes up in a cache; compilers that trace Python warn of caches.

    Raises:
        ValueError: an axis is out of range or named twice; a ghost batch would divide a channel axis, or its size
            does not divide the (known) batch size and no smaller group was asked for.
    """
    shape = tuple(shape)
    kept = canonical_axes(axes, len(shape))
    if cached and all(isinstance(size, int) for size in shape):
        return _plan_known(shape, kept, ghost)
    return _plan(shape, kept, ghost)


@lru_cache(maxsize=1024)
def plan_in_memory(
    shape: tuple[int, ...], strides: tuple[int, ...], axes: tuple[int, ...], ghost: Ghost | None
) -> Layout:
    """Plan the view of an array in the order of its memory, if there are no gaps and the batch comes first in it.

    Such are images whose channels lie last in memory and are axis 1, or the other way round. Of several channel axes
    the order would change, so these, and all other arrays, are planned as they are.

    Args:
        shape: the sizes.
        strides: how many numbers lie between neighbors along each axis.
        axes: the channel axes.
        ghost: ghost batches, or None.
    """
    axes = canonical_axes(axes, len(shape))
    order = tuple(sorted(range(len(shape)), key=lambda axis: -strides[axis]))
    moved = [tuple(values[axis] for axis in order) for values in (shape, strides)]
    if len(shape) < 3 or len(axes) > 1 or order[0] != 0 or _is_dense(shape, strides) or not _is_dense(*moved):
        return plan_layout(shape, axes, ghost)
    planned = plan_layout(moved[0], tuple(order.index(axis) for axis in axes), ghost)
    return replace(planned, order=order)


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the numbers lie in memory without gaps, in the order of the axes."""
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return 0 in shape
        expected *= size
    return True


def with_sizes(layout: Layout, sizes: Mapping[str, Size] | None) -> Layout:
    """The layout with these sizes in place of its unknown ones."""
    if not sizes or not layout.unknown:
        return layout
    shape, split = (
        tuple(sizes.get(f"{name} {axis}", size) for axis, size in enumerate(known))
        for name, known in (("shape", layout.shape), ("split", layout.split))
    )
    return replace(layout, shape=shape, split=split, ghosts=sizes.get("ghosts", layout.ghosts))


def canonical_axes(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """The axes as sorted, non-negative positions."""
    outside = [axis for axis in axes if not -rank <= axis < rank]
    if outside:
        raise ValueError(
            format_error(
                f"Invalid axis: {outside[0]} of axes {list(axes)} was asked for on an input of rank {rank}",
                f"Such an input has axes {-rank} to {rank - 1}" if rank else "A scalar has no axes",
                "Name axes inside that range"
                if rank
                else "Pass an array with a batch axis and a channel axis",
            )
        )
    positions = sorted(axis % rank for axis in axes)
    if len(set(positions)) != len(positions):
        raise ValueError(
            format_error(
                f"Duplicate axis: axes {list(axes)} were asked for on an input of rank {rank}",
                "Two of them name the same axis",
                "Name each axis once",
            )
        )
    return tuple(positions)


def product(sizes: Iterable[Size]) -> Size:
    """The product, leaving out ones so that a symbol is multiplied only where it must be."""
    result: Size = 1
    for size in sizes:
        if isinstance(size, int) and size == 1:
            continue
        result = size if isinstance(result, int) and result == 1 else result * size
    return result


def _plan(shape: tuple[Size, ...], kept: tuple[int, ...], ghost: Ghost | None) -> Layout:
    if ghost is None:
        return _merge_runs(shape, shape, kept, None, 1)
    refuse_ghost_axis(kept, ghost)
    groups, size, padding = _divide(shape[0], ghost)
    pair, ghost_axis = ((size, groups), 1) if ghost.order == "interleaved" else ((groups, size), 0)
    if not (isinstance(padding, int) and padding == 0):
        shape = (groups * size, *shape[1:])
    merged = _merge_runs(shape, (*pair, *shape[1:]), kept, ghost_axis, groups)
    if ghost.remainder == "smaller" and isinstance(size, int):
        ghost = replace(ghost, size=max(size, 1), remainder="refuse")
    return replace(merged, ghost=ghost, padding=padding)


def refuse_ghost_axis(axes: Sequence[int], ghost: Ghost | None) -> None:
    """Raise ValueError if ghost batches would divide a channel axis."""
    if ghost is not None and 0 in axes:
        raise ValueError(
            format_error(
                f"Ghost batches of {ghost.size} were asked for with axis 0 among the channel axes",
                "When using virtual_batch_size, the batch axis is divided into groups, so its indices cannot each "
                "have statistics of their own",
                "Take 0 out of the axes, or leave the ghost batches out",
            )
        )


_plan_known = lru_cache(maxsize=1024)(_plan)


def _is_array(size: Size) -> bool:
    # Compilers that trace Python have symbols that pass for ints, and cannot be asked for attributes.
    return not isinstance(size, int) and hasattr(size, "dtype")


def _divide(batch: Size, ghost: Ghost) -> tuple[Size, Size, Size]:
    """The number of groups, the size of the largest, and how many examples are missing for all to have that size.

    Smaller groups are those of `torch.chunk`: as few as the size allows, of equal size except for the last.
    """
    size = ghost.size
    if ghost.remainder == "smaller" and not (isinstance(batch, int) and batch % size == 0):
        groups = (batch + size - 1) // size
        # A tensor may turn out to be zero, which must not be a divisor.
        one_if_empty = 0**groups if _is_array(groups) else 0
        largest = (batch + groups - 1 + one_if_empty) // (groups + one_if_empty)
        if ghost.order == "contiguous":
            groups = (batch + largest - 1 + one_if_empty) // (largest + one_if_empty)
        return groups, largest, groups * largest - batch
    if isinstance(batch, int) and batch % size:
        raise ValueError(
            format_error(
                f"Ghost batches of {size} were asked for with a batch of {batch} examples",
                "Reshape cannot group it: virtual_batch_size must divide the batch size, "
                f"and {batch} = {batch // size}·{size} + {batch % size}",
                f"Use batches of a multiple of {size} examples, another virtual_batch_size, or "
                "ghost_remainder='smaller' (which the TensorFlow 1 APIs do not have)",
            )
        )
    return batch // size, size, 0


def _merge_runs(
    shape: tuple[Size, ...],
    split: tuple[Size, ...],
    axes: tuple[int, ...],
    ghost_axis: int | None,
    ghosts: Size,
) -> Layout:
    moved = len(split) - len(shape)
    kept = {axis + moved for axis in axes} | (set() if ghost_axis is None else {ghost_axis})
    order = list(range(len(split)))
    apart = sum(is_kept for is_kept, _ in groupby(order, key=kept.__contains__))
    if apart > MAX_KEPT_RUNS:
        order = sorted(order, key=kept.__contains__)
    # The ghost axis stays a run of its own, because weights differ along it and not along the channels beside it.
    runs = [tuple(run) for _, run in groupby(order, key=lambda axis: (axis in kept, axis == ghost_axis))]
    reduced = tuple(index for index, run in enumerate(runs) if run[0] not in kept)
    return Layout(shape, split, tuple(runs), reduced, axes, ghosts)
