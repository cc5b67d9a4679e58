"""Whole TensorFlow 1 programs train through the v1 function: the scripts in examples/, beside Keras 3 and without it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("legacy", ["0", "1"])
@pytest.mark.parametrize(
    ("script", "better"),
    [
        ("handwriting_tf1.py", lambda first, last: last < 0.5 * first),
        ("recommender_tf1.py", lambda first, last: last > 0.8),
    ],
)
def test_program_trains(script, better, legacy):
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / script), "120"],
        capture_output=True,
        text=True,
        env=os.environ | {"TF_USE_LEGACY_KERAS": legacy},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    lines = re.findall(r"loss ([\d.]+), .* ([\d.]+)$", ran.stdout, re.MULTILINE)
    first, last = float(lines[0][1]), float(lines[-1][1])
    assert better(first, last), ran.stdout  # what the program measures on held-out data
    assert float(lines[-1][0]) < float(lines[0][0])
