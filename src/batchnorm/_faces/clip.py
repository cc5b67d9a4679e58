"""Bounds on renorm's corrections, which every API takes as a mapping with any of rmin, rmax and dmax."""

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from batchnorm._faces.names import CLIPPING, reworded
from batchnorm.errors import format_error
from batchnorm.options import BOUNDS, Clip

__all__ = ["check_bounds", "read_clip"]


def read_clip(bounds: Mapping[str, Any] | None, convert: Callable[[Any], Any] = lambda bound: bound) -> Clip:
    """The mapping as a record, with `convert` applied to each bound.

    Raises:
        TypeError: a bound is neither a number nor an array.
        ValueError: a key other than rmin, rmax and dmax.
    """
    bounds = bounds or {}
    unknown = sorted(set(bounds) - set(BOUNDS))
    if unknown:
        raise ValueError(
            format_error(
                f"renorm_clipping={bounds!r} was given",
                f"Received invalid keys {unknown}",
                f"Use any of {', '.join(BOUNDS)}",
            )
        )
    given = {name: convert(bound) for name, bound in bounds.items() if bound is not None}
    try:
        return Clip(**given)
    except TypeError as error:
        raise reworded(error, CLIPPING) from None


def check_bounds(clip: Clip, is_known: Callable[[Any], bool] = lambda bound: isinstance(bound, Real)) -> Clip:
    """Return the record, unless bounds that `is_known` accepts contradict each other: others may be traced.

    Raises:
        ValueError: rmax is less than rmin, or dmax is negative.
    """
    if is_known(clip.rmin) and is_known(clip.rmax) and clip.rmax < clip.rmin:
        raise ValueError(
            format_error(
                f"renorm_clipping with rmin={clip.rmin!r} and rmax={clip.rmax!r} was given",
                "No r lies between them, so rmax should be at least rmin",
                "Exchange the two or drop one",
            )
        )
    if is_known(clip.dmax) and clip.dmax < 0:
        raise ValueError(
            format_error(
                f"renorm_clipping with dmax={clip.dmax!r} was given",
                "d lies in [-dmax, dmax], so dmax should be non-negative",
                "Pass its size",
            )
        )
    return clip
