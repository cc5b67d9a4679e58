"""Moments in a form that two engines agree on, whatever center each of them chose."""

from typing import Any

import numpy as np


def whole(moments: Any) -> dict[str, Any]:
    """The moments by name, with the mean's two parts as one number in float64."""
    center, offset = (np.asarray(part, np.float64) for part in (moments.center, moments.offset))
    names = ("total", "effective_count", "mean", "variance")
    return {name: getattr(moments, name) for name in names} | {"center + offset": center + offset}
