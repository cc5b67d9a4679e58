"""tf.compat.v1.layers.BatchNormalization: every recorded case on ours, in both modes."""

import pytest

from parity import compare, golden

pytestmark = [pytest.mark.needs("tensorflow", "keras", "tf_keras", "tf_slim"), pytest.mark.originals]

RECORDS = list(golden.records("v1").values())


@pytest.mark.parametrize("mode", ["tf1", "tf2"])
@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r["id"])
def test_recorded_case(record, mode, parity):
    parity("v1 layers")
    compare.assert_none(golden.check("v1", record, "ours", mode), record["id"])


@pytest.mark.parametrize("record", RECORDS[::6], ids=lambda r: r["id"])
def test_recorded_case_beside_legacy_keras(record, parity):
    parity("v1 layers")
    compare.assert_none(golden.check("v1", record, "ours_legacy", "tf1"), record["id"])
