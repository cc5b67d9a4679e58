"""The Keras layer on PyTorch: its short ways give what the core gives, and keep what Keras promises."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchnorm import _kernels

pytestmark = [
    pytest.mark.needs("keras", "torch"),
    pytest.mark.slow(1),
    pytest.mark.skipif(not _kernels.available(), reason=f"CPU kernels: {_kernels.why_missing()}"),
]

PROGRAM = Path(__file__).parents[1] / "programs" / "keras_torch.py"
CHECKS = (
    "the short ways in float32",
    "the short ways in float64",
    "the short ways in mixed_bfloat16",
    "the short ways in mixed_float16",
    "the short ways in bfloat16",
    "third derivatives",
    "inputs that are not contiguous",
    "a stateless call",
    "gradients after a step",
    "a compiled step",
    "symbols",
    "a frozen layer",
    "batches of one and none",
    "a checkpoint",
)


@pytest.fixture(scope="module")
def failures():
    environment = os.environ | {"KERAS_BACKEND": "torch"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_check_is_asked_for(failures):
    assert tuple(failures) == CHECKS


@pytest.mark.parametrize("check", CHECKS)
def test_on_pytorch(failures, check):
    assert not failures[check], failures[check]
