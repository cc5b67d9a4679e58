"""How renorm's bounds open during a training."""

import numpy as np

__all__ = ["OPENING", "renorm_bounds"]

# Where renorm's bounds end up, as in the paper.
R_MAX, D_MAX = 3.0, 5.0
# The shares of a training between which they open.
OPENING = (0.2, 0.4)


def renorm_bounds(progress: float) -> dict[str, float]:
    """The paper's schedule: plain batch norm while the moving statistics settle, then ever wider bounds."""
    width = float(np.interp(progress, OPENING, (0.0, 1.0)))
    largest = 1.0 + (R_MAX - 1.0) * width
    return {"rmin": 1.0 / largest, "rmax": largest, "dmax": D_MAX * width}
