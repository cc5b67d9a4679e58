"""Whole TensorFlow 1 programs train through the v1 function: the scripts in examples/, with either Keras."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.needs("tensorflow", "tf_keras"), pytest.mark.slow(1)]

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("legacy", ["0", "1"])
@pytest.mark.parametrize(
    ("script", "good"),
    [
        ("handwriting_tf1.py", lambda wrong: wrong < 0.3),
        ("recommender_tf1.py", lambda area: area > 0.8),
    ],
)
def test_program_trains(script, good, legacy):
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / script), "120"],
        capture_output=True,
        text=True,
        env=os.environ | {"TF_USE_LEGACY_KERAS": legacy},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    lines = re.findall(r"loss ([\d.]+), .* ([\d.]+)$", ran.stdout, re.MULTILINE)
    assert good(float(lines[-1][1])), ran.stdout  # what the program measures on held-out data
    assert float(lines[-1][0]) < float(lines[0][0])
