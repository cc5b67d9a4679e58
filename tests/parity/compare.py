"""Compares two results of one scenario, or a result with a golden record, and names every difference."""

from dataclasses import dataclass

import numpy as np

import tolerances

# The numbers of a step besides its variables; whatever else a result holds is compared exactly.
VALUES = ("y", "dx", "dgamma", "dbeta")


@dataclass(frozen=True)
class Tolerance:
    """Allowed errors relative to max(1, |v|): of what a step computes, and of the state that it leaves."""

    values: float
    state: float


def numeric(result, expected, tolerance, ignore=(), scales=({},) * 4):
    """The differences, as lines of text, of everything that `expected` holds; none means parity.

    `scales` are the sizes, step by step, of the terms that cancel in a gradient: errors are relative to them.
    Golden numbers are flat lists with "nan" and "inf" as text; live ones are arrays whose shape counts too.
    """
    differences = []
    for key, want in expected.items():
        if key in ignore:
            continue
        if key not in result:
            differences.append(f"{key}: missing, expected {want!r}")
        elif key == "steps":
            for index, (got_step, want_step) in enumerate(zip(result["steps"], want, strict=True)):
                differences += step(got_step, want_step, tolerance, f"step {index}", scales[index])
        elif key == "regularization_losses":
            # Recorded with 7 digits, in whatever dtype the parameters have.
            differences += numbers(np.ravel(result[key]), want, max(tolerance.values, 1e-6), key)
        else:
            differences += exact(result[key], want, key)
    return differences


def step(got, want, tolerance, where, scales):
    """The differences of one step: the same quantities, each within its tolerance."""
    differences = exact(sorted(set(got) - {"vars"}), sorted(set(want) - {"vars"}), f"{where}, quantities")
    for key in VALUES:
        if key in want and key in got:
            allowed = tolerance.values * scales.get(key, 1.0)
            differences += numbers(got[key], want[key], allowed, f"{where}, {key}")
    for name, value in want.get("vars", {}).items():
        if name not in got.get("vars", {}):
            differences.append(f"{where}, variable {name}: missing")
        else:
            differences += numbers(got["vars"][name], value, tolerance.state, f"{where}, {name}")
    return differences


def numbers(got, want, allowed, where):
    """One array against another, or against a golden's flat list."""
    if isinstance(want, list):
        want = np.array([float(v) for v in np.ravel(want)])
        got = np.ravel(got)
    try:
        tolerances.assert_close(got, want, "float64", where, within=allowed)
    except AssertionError as error:
        return [str(error)]
    return []


def exact(got, want, where):
    if isinstance(got, dict) and isinstance(want, dict):
        # A collection that was made and left empty is the same as none.
        got, want = ({k: v for k, v in each.items() if v != []} for each in (got, want))
    return [] if got == want else [f"{where}: got {got!r}, expected {want!r}"]


def assert_none(differences, what):
    assert not differences, f"{what}: {len(differences)} differences\n  " + "\n  ".join(differences)
