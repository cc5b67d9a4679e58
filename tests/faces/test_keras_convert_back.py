"""`convert` for Keras models: activations that come back as layers, what is refused, and what is left."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

from batchnorm import Activation
from batchnorm.keras import convert
from batchnorm.keras.layers import BatchNormalization

pytestmark = pytest.mark.needs("keras", "tensorflow")

Stock = layers.BatchNormalization
random = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _no_warnings():
    """If no layer is left out, nothing is said."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def rows_of_four():
    return random.normal(2.0, 3.0, (16, 4)).astype("float32")


BACK = {
    "relu": layers.ReLU,
    "relu6": layers.ReLU,
    "leaky_relu": layers.LeakyReLU,
    "gelu": layers.Activation,
    "silu": layers.Activation,
    "softmax": layers.Activation,
    Activation("gelu_tanh"): layers.Activation,
    Activation("leaky_relu", 0.4): layers.LeakyReLU,
}


@pytest.mark.parametrize("activation", BACK, ids=str)
def test_activations_come_back_as_layers(activation, tmp_path):
    x = keras.Input((4,))
    y = BatchNormalization(activation=activation, dtype="mixed_float16", name="n")(x, residual=x)
    model = keras.Model(x, y)
    apart = convert(model, back=True)
    assert [type(layer) for layer in apart.layers[1:]] == [Stock, layers.Add, BACK[activation]]
    assert apart.layers[2].name == "n_add"
    assert {layer.compute_dtype for layer in apart.layers[1:]} == {"float16"}
    rows = rows_of_four()
    np.testing.assert_allclose(apart(rows), model(rows), rtol=5e-3, atol=5e-3)
    apart.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(rows), apart(rows))
    again = convert(apart, fuse=True)
    assert again.get_layer("n").activation == model.get_layer("n").activation or activation == "softmax"
    np.testing.assert_allclose(again(rows), model(rows), rtol=1e-3, atol=1e-3)


def test_going_back_refuses_to_lose_options():
    for options in ({"virtual_batch_size": 4}, {"zero_debias_moving_mean": True}, {"adjustment": brighten}):
        model = keras.Sequential([keras.Input((4,)), BatchNormalization(name="n", **options)])
        model(rows_of_four(), training=True)
        with pytest.raises(ValueError, match=f"layer 'n' has .*{next(iter(options))}.*Pass force=True"):
            convert(model, back=True)
        apart = convert(model, back=True, force=True)
        rows = rows_of_four()
        np.testing.assert_allclose(apart(rows), model(rows), rtol=1e-5, atol=1e-5)
    axes = keras.Sequential([keras.Input((4, 3)), BatchNormalization(axis=[1, 2], name="n")])
    with pytest.raises(ValueError, match=r"the layer 'n' has axis=\(1, 2\). Keras' own layer has one axis"):
        convert(axes, back=True, force=True)
    plain = keras.Sequential([keras.Input((4,)), BatchNormalization(axis=[1], fused=False)])
    assert type(convert(plain, back=True).layers[0]) is Stock
    x, w = keras.Input((4,)), keras.Input(())
    weighted = keras.Model([x, w], BatchNormalization(name="n")(x, sample_weight=w))
    with pytest.raises(ValueError, match="the layer 'n' has a sample_weight in its call"):
        convert(weighted, back=True)
    assert convert(weighted, back=True, force=True).count_params() == weighted.count_params()


def brighten(shape):
    return 2.0, 0.5


class Mine(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = Stock()

    def call(self, x):
        return self.norm(x)


def test_what_is_no_model_of_layers():
    with pytest.raises(TypeError, match=r"convert was given a BatchNormalization. It copies a model"):
        convert(Stock(), fuse=True)
    with pytest.raises(ValueError, match=r"the model '.*' of class Mine. Such a model is a program"):
        convert(Mine(), fuse=True)

    class Row(keras.Sequential):
        pass

    with pytest.raises(ValueError, match="of class Row"):
        convert(Row([Stock()]), fuse=True)

    class Named(keras.Model):
        pass

    x = keras.Input((4,))
    with pytest.raises(ValueError, match="of class Named"):
        convert(Named(x, Stock()(x)))


@keras.saving.register_keras_serializable(package="tests")
class Twice(Stock):
    def call(self, inputs, training=None, mask=None):
        return 2.0 * super().call(inputs, training, mask)


@keras.saving.register_keras_serializable(package="tests")
class MyBatchNorm(layers.Layer):
    def call(self, inputs):
        return inputs


def test_what_is_left_is_named():
    x = keras.Input((3, 4))
    y = Twice(name="twice")(x)
    y = MyBatchNorm(name="mine")(layers.TimeDistributed(Stock(name="inner"), name="times")(y))
    model = keras.Model(x, layers.ReLU()(Stock(name="n")(y)))
    rows = random.normal(size=(2, 3, 4)).astype("float32")
    with pytest.warns(UserWarning, match="convert left 3 of the model's layers as they are") as told:
        joined = convert(model, fuse=True)
    assert told[0].filename == __file__
    for words in (
        "twice (Twice): the class is a subclass",
        "mine (MyBatchNorm): the class is no subclass of Keras' own layer",
        "inner (BatchNormalization): it is inside the layer 'times' of class TimeDistributed",
    ):
        assert words in str(told[0].message)
    np.testing.assert_allclose(joined(rows), model(rows), rtol=1e-5, atol=1e-5)
    assert type(joined.get_layer("n")) is BatchNormalization


def test_a_layer_that_cannot_be_copied():
    class Secret(layers.Layer):
        def __init__(self, size):
            super().__init__()
            self.size = size

        def call(self, x):
            return x * self.size

    x = keras.Input((4,))
    model = keras.Model(x, Secret(2)(Stock()(x)))
    with pytest.raises(ValueError, match=r"The layer 'secret' \(Secret\) was to be copied"):
        convert(model, fuse=True)
