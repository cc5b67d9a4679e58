"""A layout as the five runs that the kernels take: [outer, group, middle, channel, inner].

`group` and `channel` are the kept runs, the other three the reduced ones; a run that the layout lacks has size 1.
"""

from functools import lru_cache
from typing import NamedTuple

from batchnorm.layout import Layout

__all__ = ["KernelSizes", "kernel_sizes"]


class KernelSizes(NamedTuple):
    """What a kernel needs to know of a layout.

    Attributes:
        sizes: of the runs [outer, group, middle, channel, inner].
        by_group: whether weights that are the same for all channels differ along the second run; None where they
            differ along a part of it, which no kernel can take.
    """

    sizes: tuple[int, int, int, int, int]
    by_group: bool | None


def kernel_sizes(layout: Layout) -> KernelSizes | None:
    """The layout's runs, or None where the view needs a permutation or a size is not known."""
    if not all(isinstance(size, int) for size in layout.split) or layout.permutation is not None:
        return None
    return _known_sizes(layout)


@lru_cache(maxsize=1024)
def _known_sizes(layout: Layout) -> KernelSizes | None:
    # Adjacent kept runs, the ghosts and the channels beside them, are two blocks where no other one is kept.
    runs = [(index in layout.reduced, size) for index, size in enumerate(layout.view)]
    kept = [index for index, (reduced, _) in enumerate(runs) if not reduced]
    by_group: bool | None = layout.ghosts != 1 or len(layout.split) > len(layout.shape)
    if len(kept) == 3 and kept[1] == kept[0] + 1:
        # [v, G, C1, R, C2]: the groups and the first channels are one run, along a part of which weights differ.
        merged = (False, runs[kept[0]][1] * runs[kept[1]][1])
        runs[kept[0] : kept[1] + 1] = [merged]
        by_group = None
    kept = [index for index, (reduced, _) in enumerate(runs) if not reduced]
    if len(kept) > 2 or not kept:
        return None
    if len(kept) == 1:
        runs.insert(kept[0], (False, 1))
        kept = [kept[0], kept[0] + 1]
    group, channel = kept
    between = [size for _, size in runs[group + 1 : channel]]
    before, after = runs[:group], runs[channel + 1 :]
    if max(len(before), len(between), len(after)) > 1:
        return None
    outer, inner = (side[0][1] if side else 1 for side in (before, after))
    return KernelSizes(
        (outer, runs[group][1], between[0] if between else 1, runs[channel][1], inner), by_group
    )
