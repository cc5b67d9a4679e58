"""Renorm as TensorFlow 1.14 and earlier had it: every recorded case on ours, by `renorm_form="debiased"`."""

import pytest

from parity import compare, golden

pytestmark = [pytest.mark.needs("tensorflow", "keras", "tf_keras", "tf_slim"), pytest.mark.originals]

RECORDS = list(golden.records("tf1_renorm").values())


@pytest.mark.parametrize("mode", ["tf1", "tf2"])
@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r["id"])
def test_recorded_case(record, mode, parity):
    parity("v1 layers")
    compare.assert_none(golden.check("tf1_renorm", record, "ours", mode), record["id"])
