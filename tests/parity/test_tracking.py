"""track_tf1_style_variables and get_or_create_layer: recorded bodies, and tf.Modules beside the original."""

import numpy as np
import pytest

from originals.client import run
from parity import compare, discrete

pytestmark = [pytest.mark.needs("tensorflow", "keras", "tf_keras", "tf_slim"), pytest.mark.originals]

RECORDS = list(discrete.records("tracked_scopes").values())
# The original makes new variables here; the recorded bodies on layers say what ours does.
AT_THE_ROOT = ("sh-05", "sh-06")


@pytest.mark.parametrize("side", ["ours", "ours_legacy"])
@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r["id"])
def test_recorded_body(record, side, parity):
    parity("tracking")
    compare.assert_none(discrete.tracked(record, side), f"{record['id']} {record['body']}")


@pytest.mark.parametrize("record", [r for r in RECORDS if r["id"] not in AT_THE_ROOT], ids=lambda r: r["id"])
def test_body_of_a_module(record, parity):
    parity("tracking")
    sides = ("original", "ours")
    original, ours = (
        run(side, "tf2", "tracking.module", record=record, flags=[True, True, False]) for side in sides
    )
    compare.assert_none(discrete.tracked_differences(ours, as_recorded(original)), record["body"])


def as_recorded(result):
    """A live result in the goldens' form: flat lists."""
    steps = [
        {
            "y": np.ravel(s["y"]).tolist(),
            "weights": {k: np.ravel(v).tolist() for k, v in s["weights"].items()},
        }
        for s in result["steps"]
    ]
    return result | {"steps": steps, "losses": [float(v) for v in result.get("losses", ())]}
