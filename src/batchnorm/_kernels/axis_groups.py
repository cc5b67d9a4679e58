"""A layout as the five runs that the kernels take: by axes, which are known from the start, and by sizes.

    [outer, group, middle, channel, inner]

`group` and `channel` are kept, the other three reduced; a run that the layout lacks has no axes.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

from batchnorm.layout import Layout, Size, product

__all__ = ["WHY_NO_RUNS", "KernelRuns", "KernelSizes", "kernel_runs", "kernel_sizes", "why_not_weights"]

WHY_NO_RUNS = "the channel axes form three or more separate runs, so the numbers would have to be moved first"

OUTER, GROUP, MIDDLE, CHANNEL, INNER = range(5)


class KernelRuns(NamedTuple):
    """Which axes of a layout's `split` make up each run.

    Attributes:
        bounds: run k is the axes from bounds[k] to bounds[k + 1].
        by_group: whether weights that are the same for all channels differ along the second run; None if they
            differ along a part of it, which no kernel can take.
    """

    bounds: tuple[int, ...]
    by_group: bool | None


class KernelSizes(NamedTuple):
    """What a kernel needs to know of a layout.

    Attributes:
        sizes: of the runs [outer, group, middle, channel, inner]; 1 for a run that the layout lacks.
        by_group: as in `KernelRuns`.
    """

    sizes: tuple[int, int, int, int, int]
    by_group: bool | None


def kernel_runs(layout: Layout) -> KernelRuns | None:
    """The layout's runs, or None if the view needs a permutation."""
    if layout.permutation is not None:
        return None
    return _plan(layout.runs, layout.reduced, len(layout.split) > len(layout.shape))


def kernel_sizes(layout: Layout) -> KernelSizes | None:
    """The layout's runs, or None where the view needs a permutation or a size is not known."""
    return _known_sizes(layout) if all(isinstance(size, int) for size in layout.split) else None


def why_not_weights(shape: Sequence[Size], layout: Layout, by_group: bool | None) -> str | None:
    """Why the kernels do not take weights of this shape, which has the rank of x; None if they do."""
    if by_group is None:
        return (
            "with these axes and ghost batches, weights differ along a part of a run of groups and channels"
        )
    if all(isinstance(shape[axis], int) and shape[axis] == 1 for axis in layout.axes):
        return None
    return "the weights differ between channels, or may do so"


@lru_cache(maxsize=1024)
def _plan(runs: tuple[tuple[int, ...], ...], reduced: tuple[int, ...], ghosts: bool) -> KernelRuns | None:
    parts = [(index in reduced, len(run)) for index, run in enumerate(runs)]
    kept = [index for index, (is_reduced, _) in enumerate(parts) if not is_reduced]
    by_group: bool | None = ghosts
    if len(kept) == 3 and kept[1] == kept[0] + 1:
        # [v, G, C1, R, C2]: the groups and the first channels are one run, along a part of which weights differ.
        parts[kept[0] : kept[1] + 1] = [(False, len(runs[kept[0]]) + len(runs[kept[1]]))]
        kept, by_group = [kept[0], kept[2] - 1], None
    if not 1 <= len(kept) <= 2:
        return None
    lengths = [0] * 5
    for index, (is_reduced, length) in enumerate(parts):
        if is_reduced:
            run = OUTER if index < kept[0] else INNER if index > kept[-1] else MIDDLE
        else:
            run = CHANNEL if index == kept[-1] else GROUP
        if lengths[run]:
            return None
        lengths[run] = length
    return KernelRuns((0, *accumulate(lengths)), by_group)


@lru_cache(maxsize=1024)
def _known_sizes(layout: Layout) -> KernelSizes | None:
    runs = kernel_runs(layout)
    if runs is None:
        return None
    outer, group, middle, channel, inner = (product(layout.split[a:b]) for a, b in pairwise(runs.bounds))
    return KernelSizes((outer, group, middle, channel, inner), runs.by_group)
