"""A layout of known sizes as the five runs that the kernels take: [outer, group, middle, channel, inner]."""

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from batchnorm._kernels.runs import kernel_runs
from batchnorm.layout import Layout, product

__all__ = ["KernelSizes", "kernel_sizes"]


class KernelSizes(NamedTuple):
    """What a kernel needs to know of a layout.

    Attributes:
        sizes: of the runs [outer, group, middle, channel, inner]; 1 for a run that the layout lacks.
        by_group: as in `KernelRuns`.
    """

    sizes: tuple[int, int, int, int, int]
    by_group: bool | None


def kernel_sizes(layout: Layout) -> KernelSizes | None:
    """The layout's runs, or None if the view needs a permutation or a size is not known."""
    return _known_sizes(layout) if all(isinstance(size, int) for size in layout.split) else None


@lru_cache(maxsize=1024)
def _known_sizes(layout: Layout) -> KernelSizes | None:
    runs = kernel_runs(layout)
    if runs is None:
        return None
    outer, group, middle, channel, inner = (product(layout.split[a:b]) for a, b in pairwise(runs.bounds))
    return KernelSizes((outer, group, middle, channel, inner), runs.by_group)
