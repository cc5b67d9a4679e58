"""Keras 3's BatchNormalization: every recorded case on our Keras layer."""

import pytest

from parity import compare, golden

pytestmark = [pytest.mark.needs("tensorflow", "keras", "tf_keras", "tf_slim"), pytest.mark.originals]

RECORDS = list(golden.records("keras3").values())


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r["id"])
def test_recorded_case(record, parity):
    parity("Keras 3")
    compare.assert_none(golden.check("keras3", record, "ours", "tf2"), record["id"])


@pytest.mark.parametrize("record", RECORDS[::10], ids=lambda r: r["id"])
def test_recorded_case_beside_legacy_keras(record, parity):
    parity("Keras 3")
    compare.assert_none(golden.check("keras3", record, "ours_legacy", "tf2"), record["id"])
