"""Bounds on renorm's corrections that widen over the steps."""

from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch

from batchnorm.errors import format_error

__all__ = ["clipping_schedule"]


def clipping_schedule(
    warmup: int = 5_000,
    rmax: float = 3.0,
    rmax_step: int = 40_000,
    dmax: float = 5.0,
    dmax_step: int = 25_000,
) -> "ClippingSchedule":
    """Renorm's bounds as its paper sets them (Ioffe 2017, section 4, https://arxiv.org/abs/1702.03275).

    r = 1 and d = 0, which is plain batch normalization, for `warmup` steps; then straight lines to `rmax` and
    `dmax`, which are reached at `rmax_step` and `dmax_step` and stay. r lies in [1 / rmax, rmax].
    With both steps at `warmup` the bounds jump, as in CrossQ (https://arxiv.org/abs/1902.05605), whose warm-up
    has 100000 steps.

    Returns:
        For `renorm_clipping=`: a function of the step, a tensor, which compiles and pickles.

    Raises:
        TypeError: an argument is not a number.
        ValueError: rmax is below 1, dmax is negative, or a line would end before it begins.

    Examples:
        >>> import torch
        >>> from batchnorm.torch import BatchNorm2d, clipping_schedule
        >>> schedule = clipping_schedule(warmup=100, rmax_step=200, dmax_step=200)
        >>> layer = BatchNorm2d(3, renorm=True, renorm_clipping=schedule)
        >>> {name: round(float(bound), 2) for name, bound in schedule(torch.tensor(150)).items()}
        {'rmin': 0.5, 'rmax': 2.0, 'dmax': 2.5}
    """
    for name, value in {"rmax": rmax, "dmax": dmax, "rmax_step": rmax_step, "dmax_step": dmax_step}.items():
        if not isinstance(value, Real):
            raise TypeError(
                format_error(
                    f"clipping_schedule({name}={value!r}) was asked for",
                    "It is where a straight line ends",
                    "Pass a number",
                )
            )
    if rmax < 1.0 or dmax < 0.0 or warmup < 0 or min(rmax_step, dmax_step) < warmup:
        raise ValueError(
            format_error(
                f"clipping_schedule(warmup={warmup}, rmax={rmax}, rmax_step={rmax_step}, dmax={dmax}, "
                f"dmax_step={dmax_step}) was asked for",
                "r is bounded by [1 / rmax, rmax] and d by [-dmax, dmax], from the end of the warm-up on",
                "Pass rmax of at least 1, dmax of at least 0, and steps that are not before the warm-up's end",
            )
        )
    return ClippingSchedule(warmup, rmax, rmax_step, dmax, dmax_step)


@dataclass(frozen=True)
class ClippingSchedule:
    """The function of the step that `clipping_schedule` returns."""

    warmup: int
    rmax: float
    rmax_step: int
    dmax: float
    dmax_step: int

    def __call__(self, step: torch.Tensor) -> dict[str, Any]:
        past = torch.as_tensor(step).float() - self.warmup
        r = 1.0 + (self.rmax - 1.0) * self._share(past, self.rmax_step)
        return {"rmin": 1.0 / r, "rmax": r, "dmax": self.dmax * self._share(past, self.dmax_step)}

    def _share(self, past: torch.Tensor, end: int) -> torch.Tensor:
        """0 before the end of the warm-up, 1 from `end` on."""
        if end == self.warmup:
            return (past >= 0.0).float()
        return torch.clamp(past / (end - self.warmup), 0.0, 1.0)
