"""The v1 layer in Keras 2's models, if that is TensorFlow's Keras: it does what Keras 2's own layer does."""

import json
from pathlib import Path

import numpy as np
import pytest

import forked

pytestmark = [pytest.mark.needs("tensorflow", "tf_keras"), pytest.mark.forks]

PROGRAM = Path(__file__).parents[1] / "programs" / "v1_legacy_keras.py"


def last_line(*command):
    """The last line that a program prints if TensorFlow's Keras is Keras 2."""
    ran = forked.run(["tensorflow"], *command, env={"TF_USE_LEGACY_KERAS": "1"})
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout.splitlines()[-1]


def found(*arguments):
    return json.loads(last_line(PROGRAM, *arguments))


@pytest.mark.parametrize("mode", ["tf1", "tf2"])
def test_models_train_it_as_their_own(mode):
    ours, own = found(mode), found(mode, "keras")
    assert ours["graph_owner"] == own["graph_owner"] == {"updates": 2, "losses": 1, "weights": 4}
    for kind in own.keys() - {"graph_owner", "layered"}:
        for fact in ("weights", "trainable", "n_losses"):
            assert ours[kind][fact] == own[kind][fact], kind
        for fact in ("before", "values", "predicted"):
            np.testing.assert_allclose(ours[kind][fact], own[kind][fact], rtol=1e-4, atol=1e-6, err_msg=kind)
    if mode == "tf2":
        for fact in ("losses", "gradient", "mean"):
            np.testing.assert_allclose(ours["layered"][fact], own["layered"][fact], rtol=1e-4)


def test_our_keras_3_layer_says_what_it_is():
    program = """
import warnings, tensorflow as tf
from batchnorm.keras.layers import BatchNormalization
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    layers = [BatchNormalization(), BatchNormalization()]
lines = [str(each.message) for each in told if "Keras 3" in str(each.message)]
print(len(lines), lines[0])
"""
    line = last_line("-c", program)
    assert line.startswith("1 ")
    assert "It is a layer of Keras 3" in line
    assert "Use batchnorm.compat.v1.layers.BatchNormalization" in line


@pytest.mark.parametrize("fetched", [True, False])
def test_wrapped_functions(fetched):
    """`wrap_function` imports what it has built a second time, and runs no assignment that is not fetched."""
    program = f"""
import json, tensorflow as tf
from batchnorm.compat.v1.layers import BatchNormalization
layers = []
def function(x):
    layers.append(BatchNormalization(momentum=0.5, epsilon=0.0))
    y = layers[0](x, training=True)
    with tf.control_dependencies(layers[0].updates if {fetched} else []):
        return tf.identity(y)
wrapped = tf.compat.v1.wrap_function(function, [tf.TensorSpec([None, 1])])
y = wrapped(tf.constant([[1.0], [3.0]]))
(mean,) = (v for v in wrapped.variables if "moving_mean" in v.name)
print(json.dumps([y.numpy().tolist(), len(layers[0].updates), mean.numpy().tolist()]))
"""
    y, updates, mean = json.loads(last_line("-c", program))
    np.testing.assert_allclose(y, [[-1.0], [1.0]], rtol=1e-6)
    assert (updates, mean) == (2, [1.0 if fetched else 0.0])
