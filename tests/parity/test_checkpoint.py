"""A genuine TensorFlow 1.15.5 checkpoint restored and trained on, and others to and from the original."""

import numpy as np
import pytest

from originals.client import run
from parity.checkpoints import CHECKPOINT, end_values, graph, recorded, start_values

pytestmark = [pytest.mark.needs("tensorflow", "keras", "tf_keras", "tf_slim"), pytest.mark.originals]

MODES = ["tf1", "tf2"]
# The recorded numbers come from TensorFlow 1.15.5's own kernels; today's originals are within 2e-6 of them.
TOLERANCE = 5e-6


def agree(actual, expected, what):
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=what)


@pytest.mark.parametrize("side", ["ours", "ours_legacy"])
@pytest.mark.parametrize("mode", MODES)
def test_the_recorded_checkpoint_restores(mode, side, parity):
    parity("checkpoint")
    restored = run(side, mode, "checkpoint.restore", checkpoint=str(CHECKPOINT), x=recorded("x"))
    assert restored["variables"] == graph()["variables"]
    assert restored["trainable"] == graph()["trainable"]
    assert restored["update_ops"] == graph()["update_ops"]
    for name, value in end_values().items():
        np.testing.assert_array_equal(restored["values"][name], value, err_msg=name)
    agree(restored["logits"], recorded("logits"), "logits")
    agree(restored["logits_training"], recorded("logits_training"), "logits in training mode")


@pytest.mark.parametrize("mode", MODES)
def test_training_from_the_recorded_start_ends_where_it_did(mode, parity):
    parity("checkpoint")
    trained = run("ours", mode, "checkpoint.train", start=start_values())
    agree(trained["losses"], recorded("losses"), "losses")
    for name, value in end_values().items():
        agree(trained["values"][name], value, name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("writer", "reader"), [("ours", "original"), ("original", "ours")])
def test_a_checkpoint_goes_from_one_to_the_other(writer, reader, mode, tmp_path, parity):
    parity("checkpoint")
    path = run(writer, mode, "checkpoint.save", start=end_values(), prefix=str(tmp_path / "model"))["path"]
    restored = run(reader, mode, "checkpoint.restore", checkpoint=path, x=recorded("x"))
    for name, value in end_values().items():
        np.testing.assert_array_equal(restored["values"][name], value, err_msg=name)
    agree(restored["logits"], recorded("logits"), "logits")
