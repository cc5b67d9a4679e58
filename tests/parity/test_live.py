"""Random option combinations on ours and on the live original: numbers, names and collections."""

import numpy as np
import pytest

from originals.client import run
from parity import compare, live

pytestmark = [pytest.mark.needs("tensorflow", "keras", "tf_keras", "tf_slim"), pytest.mark.originals]

CASES = {("v1", "tf1"): 40, ("v1", "tf2"): 30, ("contrib", "tf1"): 30, ("contrib", "tf2"): 20}
CASES |= {("tf_keras", "tf2"): 30, ("keras3", "tf2"): 30}
DRAWN = [(api, mode, seed) for (api, mode), n in CASES.items() for seed in range(n)]


@pytest.mark.parametrize(("api", "mode", "seed"), DRAWN)
def test_random_case(api, mode, seed, parity):
    parity(f"{api} live")
    case, differences = live.check(api, seed if mode == "tf1" else 1000 + seed, mode)
    compare.assert_none(differences, str(case))


def test_float64_averages_keep_exactly_momentum():
    """The deviation that the float64 cases above lean on: given m, ours moves by 1 - m in float64."""
    case = {
        "seed": 1,
        "shape": [8, 3],
        "axis": -1,
        "dtype": "float64",
        "init": "default",
        "train_kind": "bool",
    }
    case["options"] = {"momentum": 0.9, "center": True, "scale": True}
    steps = run("ours", "tf1", "v1.numeric", case=case)["steps"]
    mean = np.zeros(3)
    for t, step in enumerate(steps[:3]):
        mean = mean * 0.9 + live.inputs.input_at(live.inputs.as_case(case), t).mean(0) * 0.1
        np.testing.assert_allclose(step["vars"]["moving_mean"], mean, rtol=1e-14)
