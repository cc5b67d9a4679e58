"""How far two correct computations of the same number may differ, in one place.

An error is relative to max(1, |v|), or to the `scale` given: a sum whose terms cancel is only as exact
as its terms are large, so its test passes the sum of their magnitudes.
"""

from __future__ import annotations

import math

import numpy as np

# 16-bit results differ by the rounding of the result alone (two units in the last place), because
# what leads there is computed in float32.
_BASE = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}

# The unit roundoff of the type in which sums are accumulated.
_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-24, "bfloat16": 2.0**-24}

# What recorded numbers allow: 7 digits (13 for float64), other orders of summation, 16-bit steps in between.
_GOLDEN = {"float64": 1e-9, "float32": 5e-5, "float16": 1e-2, "bfloat16": 5e-2}


def dtype_name(dtype: object) -> str:
    """The plain name of a dtype given as text, class, or any framework's own object."""
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    return name.removeprefix("torch.")


def tolerance(dtype: object, summands: int = 1) -> float:
    """The allowed relative error of a result of `dtype` that sums `summands` numbers.

    Rounding errors of a sum grow like a random walk, and 4 deviations cover all of them in practice.
    """
    name = dtype_name(dtype)
    return max(_BASE[name], 4.0 * math.sqrt(summands) * _ROUNDOFF[name])


def chained(summands: int, dtype: object = "float32", longest: int = 1024) -> float:
    """The allowed relative error of a sum of `summands` positive numbers, taken in chains of at most `longest`.

    Each addition rounds a partial sum by half a unit in its last place: at worst n·ε/2 for a chain of n, and as a
    random walk √n·ε. Four deviations of the latter, for a chain of chains, and a few dozen other roundings.
    """
    chains = -(-summands // longest)
    return (4.0 * math.sqrt(min(summands, longest) + chains) + 16.0) * _ROUNDOFF[dtype_name(dtype)]


def golden_tolerance(compute_dtype: object, variable_dtype: object = "float32") -> float:
    """The allowed relative error against a recorded number; variables held in 16 bits add to it."""
    name = dtype_name(compute_dtype)
    if dtype_name(variable_dtype) == "float16":
        return max(_GOLDEN[name], 4e-2)
    return _GOLDEN[name]


def assert_close(
    actual: object,
    expected: object,
    dtype: object,
    what: str,
    *,
    scale: object = None,
    summands: int = 1,
    within: float | None = None,
) -> None:
    """Fail unless `actual` and `expected` agree in shape, in NaN and infinity, and in value.

    `within` replaces the tolerance of `dtype`, and `scale` what errors are relative to: max(1, |expected|).
    """
    got, want = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    allowed = tolerance(dtype, summands) if within is None else within
    reference = np.maximum(1.0, np.abs(want)) if scale is None else np.asarray(scale, np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(got - want) / np.broadcast_to(reference, want.shape)
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        wrong = ~same & ~(np.isfinite(want) & (error <= allowed))
    if wrong.any():
        raise AssertionError(_describe(what, got, want, error, wrong, allowed))


def _describe(
    what: str, got: np.ndarray, want: np.ndarray, error: np.ndarray, wrong: np.ndarray, allowed: float
) -> str:
    rank = np.where(wrong, np.where(np.isnan(error), np.inf, error), -1.0)
    worst = np.unravel_index(np.argmax(rank), want.shape)
    where = [int(i) for i in worst]
    return (
        f"{what}: {int(wrong.sum())} of {want.size} numbers differ, worst at {where}: got {got[worst]:.10g}, "
        f"expected {want[worst]:.10g}, relative error {error[worst]:.3g} where {allowed:.3g} is allowed"
    )
