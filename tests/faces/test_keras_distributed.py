"""The Keras layer on two replicas, against what Keras 3 gave and against one concatenated batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import golden_data
from batchnorm.keras.layers import BatchNormalization
from originals.sides import environment
from programs import keras_replicas

pytestmark = pytest.mark.needs("keras", "tensorflow", "tf_keras")

RECORDS = [record for record in golden_data.raw("distributed")["cases"] if record["api"] == "keras3"]
NAMES = [f"{record['options']} {record['shape_per_replica']}" for record in RECORDS]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas")
    (folder / "records.json").write_text(json.dumps(RECORDS))
    paths = [folder / "records.json", folder / "results.json"]
    tests = Path(golden_data.__file__).parent
    env = os.environ | environment("keras3") | {"PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
    subprocess.run([sys.executable, keras_replicas.__file__, *paths], check=True, env=env)
    return json.loads(paths[1].read_text())


@pytest.mark.parametrize("index", range(len(RECORDS)), ids=NAMES)
def test_as_keras_3_on_two_replicas(index, results, parity):
    parity("Keras 3")
    want, got = RECORDS[index]["result"], results[index]
    for name in ("y_step1", "y_step2"):
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)
    for name, value in got["vars"].items():
        # Keras 3 fills the state with NaN, or with zeros, where there is no example.
        empty = 0 in RECORDS[index]["shape_per_replica"]
        start = 0.0 if name == "beta" or "mean" in name else 1.0
        recorded = np.full(3, start) if empty else want["vars"][name]
        np.testing.assert_allclose(value, recorded, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "index", [i for i, r in enumerate(RECORDS) if r["options"] == {"synchronized": True}]
)
def test_synchronized_replicas_are_one_batch(index, results):
    x = tf.concat([golden_data.distributed_input(RECORDS[index], replica) for replica in range(2)], 0)
    layer = BatchNormalization()
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        loss = tf.reduce_sum(y**3)
    np.testing.assert_allclose(results[index]["y_step1"], np.ravel(y), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(results[index]["dx"], np.ravel(tape.gradient(loss, x)), rtol=1e-4, atol=1e-5)
