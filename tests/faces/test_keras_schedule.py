"""Bounds on renorm's corrections that a training changes."""

import keras
import numpy as np
import pytest

from batchnorm.keras.layers import BatchNormalization

pytestmark = pytest.mark.needs("keras", "tensorflow", "tf_keras")


def clipped(x, bounds):
    """The output's mean after one training step: x has mean 3 and deviation 1, the moving statistics are at 0 and 1."""
    layer = BatchNormalization(renorm=True, renorm_clipping=bounds, epsilon=0.0)
    return layer, float(keras.ops.convert_to_numpy(layer(x, training=True)).mean())


def inputs():
    x = np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)
    return (x - x.mean(0)) / x.std(0) + 3.0


def test_a_variable_bounds_like_its_number():
    # Of d = 3 a bound of 2 leaves 2.
    x = inputs()
    variable = keras.Variable(2.0, trainable=False)
    _, mean = clipped(x, {"dmax": variable})
    assert mean == pytest.approx(2.0, abs=1e-5)
    assert mean == clipped(x, {"dmax": 2.0})[1]


def test_a_compiled_step_reads_what_the_variable_holds_by_now():
    x = inputs()
    bound = keras.Variable(0.0, trainable=False)
    model = keras.Sequential(
        [BatchNormalization(renorm=True, renorm_clipping={"dmax": bound}, renorm_momentum=1.0)]
    )
    # With a renorm momentum of 1 its averages stay, so that the bound alone changes the output.
    model.compile("sgd", lambda y, output: keras.ops.mean(output - y))
    model.optimizer.learning_rate = 0.0
    losses = []
    for value in (0.0, 1.0, 0.5):
        bound.assign(value)
        model.reset_metrics()
        losses.append(float(model.train_on_batch(x, np.zeros_like(x))))
    assert losses == pytest.approx([0.0, 1.0, 0.5], abs=1e-5)


def test_a_saved_model_has_the_variables(tmp_path):
    bound = keras.Variable(0.0, trainable=False)
    layer = BatchNormalization(renorm=True, renorm_clipping={"dmax": bound, "rmin": 0.5}, name="norm")
    model = keras.Sequential([keras.Input((5,)), layer])
    bound.assign(2.0)
    model.save(tmp_path / "model.keras")
    bound.assign(1.0)
    loaded = keras.saving.load_model(tmp_path / "model.keras").get_layer("norm").renorm_clipping
    assert loaded["rmin"] == 0.5
    assert float(loaded["dmax"].value) == 2.0
