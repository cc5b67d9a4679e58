"""The initial moving statistics of layers that take initializers."""

from collections.abc import Callable
from typing import Any

__all__ = ["initializers"]


def initializers(
    mean: Any, variance: Any, root_of: Callable[[Any], Any], debiased: bool = False
) -> dict[str, Any]:
    """The initializer of each slot of the state that does not start at zero.

    Args:
        mean: the moving mean's initializer.
        variance: the moving variance's initializer.
        root_of: makes an initializer of deviations from one of variances.
        debiased: whether the layer uses renorm's debiased form, whose averages all start at zero.
    """
    starts = {"moving_mean": mean, "moving_variance": variance}
    if not debiased:
        root = root_of(variance)
        starts |= {"moving_stddev": root, "renorm_mean": mean, "renorm_stddev": root}
    return starts
