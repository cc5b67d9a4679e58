"""Keras 2's BatchNormalization: every recorded case on our Keras layer in its Keras 2 form."""

import pytest

from parity import compare, golden

pytestmark = [pytest.mark.needs("tensorflow", "keras", "tf_keras", "tf_slim"), pytest.mark.originals]


@pytest.mark.parametrize("record", list(golden.records("tf_keras").values()), ids=lambda r: r["id"])
def test_recorded_case(record, parity):
    parity("Keras 2 form")
    compare.assert_none(golden.check("tf_keras", record, "ours", "tf2"), record["id"])
