"""Configurations of the Keras layer: round trips, Keras' own, tf_keras' own, and adjustments."""

import json
import warnings

import keras
import numpy as np
import pytest

from batchnorm.keras.layers import BatchNormalization

pytestmark = pytest.mark.needs("keras", "tensorflow", "tf_keras")


@keras.saving.register_keras_serializable(package="tests")
def halve(shape):
    return 0.5, 0.0


CONFIGURED = {
    "defaults": {},
    "stock options": {
        "axis": 1,
        "momentum": 0.9,
        "epsilon": 1e-5,
        "scale": False,
        "beta_initializer": keras.initializers.RandomNormal(seed=1),
        "beta_regularizer": "l2",
        "beta_constraint": "non_neg",
        "renorm": True,
        "renorm_clipping": {"rmax": 3.0, "rmin": 0.3, "dmax": 5.0},
        "renorm_momentum": 0.8,
        "dtype": "mixed_float16",
        "trainable": False,
        "name": "norm",
    },
    "axes and ghosts": {"axis": [-1, 1], "virtual_batch_size": 4, "ghost_order": "contiguous"},
    "tuple": {"axis": (3,), "virtual_batch_size": np.int64(2)},
    "statistics": {"zero_debias_moving_mean": True, "variance": "sample", "fused": False},
    "synchronized": {"synchronized": True},
    "adjustment": {"adjustment": halve},
}


@pytest.mark.parametrize("name", CONFIGURED)
def test_round_trip(name):
    layer = BatchNormalization(**CONFIGURED[name])
    config = layer.get_config()
    layer.build((None, 3, 4, 5))
    assert layer.get_config() == config, "building changed the configuration"
    copy = BatchNormalization.from_config(json.loads(json.dumps(config)))
    assert copy.get_config() == config
    copy.build((None, 3, 4, 5))
    assert [(v.name, v.shape, v.dtype) for v in copy.weights] == [
        (v.name, v.shape, v.dtype) for v in layer.weights
    ]
    assert copy.adjustment is layer.adjustment


def test_every_option_is_in_the_configuration():
    layer = BatchNormalization(axis=[-1, 1], virtual_batch_size=4, ghost_order="contiguous", fused=False)
    told = {"axis": [-1, 1], "virtual_batch_size": 4, "ghost_order": "contiguous", "fused": False}
    assert {key: layer.get_config()[key] for key in told} == told
    layer = BatchNormalization(zero_debias_moving_mean=True, variance="sample", synchronized=True)
    told = {"zero_debias_moving_mean": True, "variance": "sample", "synchronized": True}
    assert {key: layer.get_config()[key] for key in told} == told


@pytest.mark.parametrize("name", ["defaults", "stock options", "synchronized"])
def test_same_configuration_as_stock_where_the_options_exist_there(name):
    arguments = {"name": "norm"} | CONFIGURED[name]
    stock = keras.layers.BatchNormalization(**arguments)
    ours = BatchNormalization(**arguments)
    assert ours.get_config() == stock.get_config()
    assert BatchNormalization.from_config(stock.get_config()).get_config() == stock.get_config()
    assert keras.layers.BatchNormalization.from_config(ours.get_config()).get_config() == stock.get_config()


# What tf_keras 2.21 writes, cut to what it does not share with Keras 3.
KERAS_2 = {
    "name": "norm",
    "trainable": True,
    "dtype": {
        "module": "keras.mixed_precision",
        "class_name": "Policy",
        "config": {"name": "mixed_float16"},
        "registered_name": None,
    },
    "axis": [3],
    "momentum": 0.9,
    "gamma_initializer": {
        "module": "keras.initializers",
        "class_name": "Constant",
        "config": {"value": 2.0},
        "registered_name": None,
    },
}


def test_configuration_of_tf_keras():
    layer = BatchNormalization.from_config(KERAS_2)
    assert (layer.axis, layer.momentum, layer.compute_dtype, layer.variable_dtype) == (
        (3,),
        0.9,
        "float16",
        "float32",
    )
    layer.build((None, 3, 4, 5))
    np.testing.assert_array_equal(layer.gamma, np.full(5, 2.0))


def test_shifted_axes_of_a_built_tf_keras_layer_with_ghosts():
    built = KERAS_2 | {"axis": [2, 4], "virtual_batch_size": 2}
    with pytest.warns(
        UserWarning, match=r"axis=\[2, 4\] of a tf_keras layer with ghost batches is read as \[1, 3\]"
    ):
        layer = BatchNormalization.from_config(built)
    assert layer.axis == (1, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert BatchNormalization.from_config(built | {"axis": [-1]}).axis == (-1,)
        assert BatchNormalization.from_config(built | {"axis": 3}).axis == 3
        assert BatchNormalization.from_config(layer.get_config()).axis == (1, 3)
    assert built["axis"] == [2, 4]


def test_unregistered_adjustment_is_left_out_with_a_warning():
    layer = BatchNormalization(adjustment=lambda shape: (1.0, 0.0))
    with pytest.warns(
        UserWarning, match="Keras cannot bring this function back, so the configuration leaves it out"
    ):
        config = layer.get_config()
    assert BatchNormalization.from_config(config).adjustment is None


def test_clone_of_a_model():
    model = keras.Sequential(
        [keras.Input((3, 4)), BatchNormalization(axis=[1, 2], virtual_batch_size=2, adjustment=halve)]
    )
    model(np.random.default_rng(0).normal(size=(4, 3, 4)), training=True)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    x = np.random.default_rng(1).normal(size=(4, 3, 4)).astype("float32")
    np.testing.assert_array_equal(clone(x, training=True), model(x, training=True))
    assert clone.layers[0].get_config() == model.layers[0].get_config()


def test_stock_layers_of_a_model_are_exchanged_by_cloning():
    stock = keras.layers.BatchNormalization
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(4), stock(name="norm"), keras.layers.Dense(2)]
    )
    x = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
    model(x, training=True)

    def exchange(layer):
        kind = BatchNormalization if isinstance(layer, stock) else type(layer)
        return kind.from_config(layer.get_config())

    ours = keras.models.clone_model(model, clone_function=exchange)
    ours.set_weights(model.get_weights())
    assert isinstance(ours.get_layer("norm"), BatchNormalization)
    np.testing.assert_allclose(ours(x), model(x), rtol=1e-5, atol=1e-6)
