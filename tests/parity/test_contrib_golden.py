"""tf.contrib.layers.batch_norm: every recorded case on ours."""

import pytest

from parity import compare, golden

pytestmark = [pytest.mark.needs("tensorflow", "keras", "tf_keras", "tf_slim"), pytest.mark.originals]

RECORDS = list(golden.records("contrib").values())


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r["id"])
def test_recorded_case(record, parity):
    parity("contrib")
    compare.assert_none(golden.check("contrib", record, "ours", "tf1"), record["id"])


@pytest.mark.parametrize("record", RECORDS[::10], ids=lambda r: r["id"])
def test_recorded_case_beside_legacy_keras(record, parity):
    parity("contrib")
    compare.assert_none(golden.check("contrib", record, "ours_legacy", "tf1"), record["id"])
