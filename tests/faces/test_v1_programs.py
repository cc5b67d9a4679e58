"""Whole TensorFlow 1 programs train through the v1 function: the scripts in examples/, with either Keras."""

import re
from pathlib import Path

import pytest

import forked

pytestmark = [pytest.mark.needs("tensorflow", "tf_keras"), pytest.mark.forks]

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("script", "good"),
    [
        ("handwriting_tf1.py", lambda wrong: wrong < 0.3),
        ("recommender_tf1.py", lambda area: area > 0.8),
    ],
)
def test_program_trains(script, good, legacy):
    env = {"TF_USE_LEGACY_KERAS": "1"} if legacy else {}
    ran = forked.run(["tensorflow"], EXAMPLES / script, "120", env=env)
    assert ran.returncode == 0, ran.stderr[-2000:]
    lines = re.findall(r"loss ([\d.]+), .* ([\d.]+)$", ran.stdout, re.MULTILINE)
    assert good(float(lines[-1][1])), ran.stdout  # what the program measures on held-out data
    assert float(lines[-1][0]) < float(lines[0][0])
