"""The planned view: every documented case, sizes that are symbols, statistics through the view, refusals."""

import itertools
import re

import numpy as np
import pytest

from batchnorm.layout import canonical_axes, plan_in_memory, plan_layout, product, refuse_ghost_axis
from batchnorm.options import Ghost

INTERLEAVED, CONTIGUOUS = Ghost(2), Ghost(2, "contiguous")

# name: shape, axes, ghost, then view, reduced, permutation, [G, C], numbers in one statistic
VIEWS = {
    "channels last": ((6, 4, 5, 3), (3,), None, (120, 3), (0,), None, (1, 3), 120),
    "channels first": ((6, 3, 4, 5), (1,), None, (6, 3, 20), (0, 2), None, (1, 3), 120),
    "interleaved": ((6, 4, 5, 3), (3,), INTERLEAVED, (2, 3, 20, 3), (0, 2), None, (3, 3), 40),
    "contiguous": ((6, 4, 5, 3), (3,), CONTIGUOUS, (3, 40, 3), (1,), None, (3, 3), 40),
    "both": ((6, 3, 4, 5), (1,), INTERLEAVED, (2, 3, 3, 20), (0, 3), None, (3, 3), 40),
    "contiguous, first": ((6, 3, 4, 5), (1,), CONTIGUOUS, (3, 2, 3, 20), (1, 3), None, (3, 3), 40),
    "two axes apart": ((6, 4, 5, 3), (1, 3), None, (6, 4, 5, 3), (0, 2), None, (1, 12), 30),
    "two axes together": ((6, 4, 5, 3), (2, 3), None, (24, 15), (0,), None, (1, 15), 24),
    "batch kept": ((6, 4, 3), (0,), None, (6, 12), (1,), None, (1, 6), 12),
    "vector": ((6,), (0,), None, (6,), (), None, (1, 6), 1),
    "all kept": ((6, 4), (0, 1), None, (24,), (), None, (1, 24), 1),
    "rank 2, ghosts": ((6, 3), (1,), INTERLEAVED, (2, 3, 3), (0,), None, (3, 3), 2),
    "three axes apart": ((2, 3, 4, 5, 6), (0, 2, 4), None, (15, 48), (0,), (1, 3, 0, 2, 4), (1, 48), 15),
    "contiguous, apart": ((4, 3, 2, 5), (1, 3), CONTIGUOUS, (4, 2, 15), (0,), (1, 3, 0, 2, 4), (2, 15), 4),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views(name: str) -> None:
    shape, axes, ghost, view, reduced, permutation, statistics, count = VIEWS[name]
    layout = plan_layout(shape, axes, ghost)
    assert (layout.ghosts, layout.channels) == statistics
    assert layout.count == count
    assert layout.permutation == permutation
    assert (layout.view, layout.reduced) == (view, reduced)
    expected = tuple(1 if run in layout.reduced else size for run, size in enumerate(layout.view))
    assert layout.stat_view == expected
    assert np.prod(layout.view) == np.prod(shape)


@pytest.mark.parametrize("ghost", [None, INTERLEAVED, CONTIGUOUS], ids=["plain", "interleaved", "contiguous"])
@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
def test_a_sum_over_the_reduced_runs_is_the_sum_by_the_definition(rank: int, ghost: Ghost | None) -> None:
    shape = (4, 3, 2, 5, 2)[:rank]
    x = np.arange(np.prod(shape), dtype=np.float64).reshape(shape) ** 2
    for kept in subsets(range(1 if ghost else 0, rank)):
        layout = plan_layout(shape, kept, ghost)
        split = x.reshape(layout.split)
        viewed = (split if layout.permutation is None else split.transpose(layout.permutation)).reshape(
            layout.view
        )
        sums = viewed.sum(axis=layout.reduced).reshape(layout.ghosts, layout.channels)
        assert np.array_equal(
            sums, np.stack([sum_by_definition(group, kept) for group in groups(x, ghost)])
        ), kept
        assert layout.count * sums.size == x.size
        assert (layout.permutation is not None) == (kept_runs(kept, rank, ghost) > 2), kept
        assert np.broadcast_shapes(layout.weight_shape, shape) == shape
        assert layout.weight_shape == tuple(1 if axis in kept else size for axis, size in enumerate(shape))
        whole = np.ones(layout.weight_shape).reshape(layout.weight_split)
        whole = whole if layout.permutation is None else whole.transpose(layout.permutation)
        assert np.broadcast_shapes(whole.reshape(layout.weight_view).shape, layout.view) == layout.view


def subsets(axes: range) -> list[tuple[int, ...]]:
    return [kept for size in range(1, len(axes) + 1) for kept in itertools.combinations(axes, size)]


def groups(x: np.ndarray, ghost: Ghost | None) -> list[np.ndarray]:
    if ghost is None:
        return [x]
    count = x.shape[0] // ghost.size
    if ghost.order == "interleaved":
        return [x[group::count] for group in range(count)]
    return [x[group * ghost.size : (group + 1) * ghost.size] for group in range(count)]


def sum_by_definition(x: np.ndarray, kept: tuple[int, ...]) -> np.ndarray:
    return x.sum(axis=tuple(axis for axis in range(x.ndim) if axis not in kept)).reshape(-1)


def kept_runs(kept: tuple[int, ...], rank: int, ghost: Ghost | None) -> int:
    """How many stretches of kept neighbors; ghost groups lie after or before what is left of axis 0."""
    flags = [axis in kept for axis in range(rank)]
    if ghost is not None:
        flags = [False, True, *flags[1:]] if ghost.order == "interleaved" else [True, *flags]
    return sum(flag for flag, _ in itertools.groupby(flags))


class Symbol:
    """A size that is only known when the program runs; it can do no more than the planner may ask of it."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __mul__(self, other: object) -> "Symbol":
        return Symbol(self.value * (other.value if isinstance(other, Symbol) else other))

    __rmul__ = __mul__

    def __floordiv__(self, other: int) -> "Symbol":
        return Symbol(self.value // other)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("unknown", ["batch", "all reduced"])
def test_unknown_sizes_give_the_same_view(name: str, unknown: str) -> None:
    shape, axes, ghost, *_ = VIEWS[name]
    known = plan_layout(shape, axes, ghost)
    lost = {0} if unknown == "batch" else set(range(len(shape))) - set(axes)
    symbolic = tuple(Symbol(size) if axis in lost else size for axis, size in enumerate(shape))
    layout = plan_layout(symbolic, axes, ghost)
    assert (layout.runs, layout.reduced, layout.permutation) == (known.runs, known.reduced, known.permutation)
    for sizes in ("view", "stat_view", "split", "weight_shape", "weight_view"):
        assert [evaluated(size) for size in getattr(layout, sizes)] == list(getattr(known, sizes)), sizes
    assert evaluated(layout.count) == known.count
    if not lost & set(axes):
        assert layout.channels == known.channels
        assert isinstance(layout.channels, int)


def evaluated(size: int | Symbol) -> int:
    return size.value if isinstance(size, Symbol) else size


def test_known_layouts_are_planned_once() -> None:
    assert plan_layout([4, 3], [-1]) is plan_layout((4, 3), (1,))
    assert plan_layout((4, 3), (1,), Ghost(2)) is not plan_layout((4, 3), (1,), Ghost(2, "contiguous"))


def test_an_empty_batch_has_no_group() -> None:
    layout = plan_layout((0, 3), (1,), INTERLEAVED)
    assert (layout.ghosts, layout.channels, layout.view) == (0, 3, (2, 0, 3))
    assert plan_layout((0, 3), (1,)).count == 0


@pytest.mark.parametrize(
    ("axes", "rank", "positions"),
    [((-1,), 4, (3,)), ((3, 1), 4, (1, 3)), ((-1, 0), 2, (0, 1)), ((-3,), 3, (0,)), ([1], 2, (1,))],
)
def test_axes_become_sorted_positions(axes, rank: int, positions: tuple[int, ...]) -> None:
    assert canonical_axes(axes, rank) == positions


@pytest.mark.parametrize("axes", [(4,), (-5,), (1, 7)])
def test_axis_out_of_range(axes: tuple[int, ...]) -> None:
    wrong = axes[-1]
    message = (
        f"Invalid axis: {wrong} of axes {list(axes)} was asked for on an input of rank 4. "
        "Such an input has axes -4 to 3. Name axes inside that range."
    )
    with pytest.raises(ValueError, match=whole(message)):
        plan_layout((2, 3, 4, 5), axes)


@pytest.mark.parametrize("axes", [(1, 1), (3, -1), (0, 1, -2)])
def test_axis_named_twice(axes: tuple[int, ...]) -> None:
    rank = 3 if 0 in axes else 4
    message = (
        f"Duplicate axis: axes {list(axes)} were asked for on an input of rank {rank}. "
        "Two of them name the same axis. Name each axis once."
    )
    with pytest.raises(ValueError, match=whole(message)):
        plan_layout((2, 3, 4, 5)[:rank], axes)


@pytest.mark.parametrize("axes", [(0,), (-4,), (0, 3)])
def test_ghosts_cannot_divide_a_channel_axis(axes: tuple[int, ...]) -> None:
    message = (
        "Ghost batches of 2 were asked for with axis 0 among the channel axes. When using "
        "virtual_batch_size, the batch axis is divided into groups, so its indices cannot each have "
        "statistics of their own. "
        "Take 0 out of the axes, or leave the ghost batches out."
    )
    with pytest.raises(ValueError, match=whole(message)):
        plan_layout((2, 3, 4, 5), axes, INTERLEAVED)


def test_the_ghost_axis_can_be_checked_before_there_is_an_input() -> None:
    refuse_ghost_axis((1,), INTERLEAVED)
    refuse_ghost_axis((0,), None)
    with pytest.raises(ValueError, match="Ghost batches of 2 were asked for with axis 0"):
        refuse_ghost_axis((0,), INTERLEAVED)


@pytest.mark.parametrize("ghost", [Ghost(4), Ghost(4, "contiguous")])
def test_ghost_size_must_divide_the_batch(ghost: Ghost) -> None:
    message = (
        "Ghost batches of 4 were asked for with a batch of 10 examples. Reshape cannot group it: "
        "virtual_batch_size must divide the batch size, and 10 = 2·4 + 2. Use batches of a multiple of 4 "
        "examples, another virtual_batch_size, or ghost_remainder='smaller' (which the TensorFlow 1 APIs do not have)."
    )
    with pytest.raises(ValueError, match=whole(message)):
        plan_layout((10, 3), (1,), ghost)


def whole(message: str) -> str:
    return f"^{re.escape(message)}$"


def test_product_leaves_ones_out() -> None:
    symbol = object()  # cannot be multiplied
    assert product([1, symbol, 1]) is symbol
    assert product([2, 1, 3]) == 6
    assert product([]) == 1
    assert product([2, 0]) == 0


MEMORY = {
    "as it is": ((2, 3, 4, 5), (60, 20, 5, 1), (1,), None),
    "channels last in memory": ((2, 3, 4, 5), (60, 1, 15, 3), (1,), (0, 2, 3, 1)),
    "channels first in memory": ((2, 4, 5, 3), (60, 5, 1, 20), (3,), (0, 3, 1, 2)),
    "with gaps": ((2, 3, 4, 5), (120, 1, 15, 3), (1,), None),
    "gaps between rows": ((2, 3, 4, 5), (120, 1, 30, 3), (1,), None),
    "the batch inside": ((2, 3, 4), (1, 8, 2), (1,), None),
    "several channel axes": ((2, 3, 4, 5), (60, 1, 15, 3), (1, 2), None),
    "matrices": ((2, 3), (1, 2), (1,), None),
    "one pixel": ((2, 3, 1, 1), (3, 1, 3, 3), (1,), None),
    "empty": ((0, 3, 4, 5), (60, 1, 15, 3), (1,), None),
}


@pytest.mark.parametrize("name", MEMORY)
def test_a_layout_in_the_order_of_memory(name: str) -> None:
    shape, strides, axes, order = MEMORY[name]
    layout = plan_in_memory(shape, strides, axes, None)
    assert layout.order == order
    moved = tuple(range(len(shape))) if order is None else order
    assert layout.shape == tuple(shape[axis] for axis in moved)
    assert [moved[axis] for axis in layout.axes] == list(axes)
    assert [moved[place] for place in layout.inverse_order] == sorted(moved)
    assert layout.reordered == plan_layout(layout.shape, layout.axes)
