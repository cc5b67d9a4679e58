"""A tracked object under MirroredStrategy: its variables are the strategy's, wherever they are made."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from originals.sides import environment
from programs import tracked_replicas

pytestmark = pytest.mark.needs("tensorflow", "keras", "tf_keras")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    target = tmp_path_factory.mktemp("replicas") / "results.json"
    tests = Path(tracked_replicas.__file__).parents[1]
    env = environment("keras3") | {"PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
    subprocess.run([sys.executable, tracked_replicas.__file__, target], check=True, env=env)
    return json.loads(target.read_text())


@pytest.mark.parametrize("where", ["scope", "replica"])
def test_variables_are_the_strategys(where, results):
    found = results[where]
    assert found["kinds"] == ["MirroredVariable"] * 2 + ["SyncOnReadVariable"] * 2
    halves = [tracked_replicas.X[:4].mean(0) / 2, tracked_replicas.X[4:].mean(0) / 2]
    np.testing.assert_allclose(found["replicas"], halves, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found["mean"], np.mean(halves, 0), rtol=1e-5, atol=1e-7)
