"""`convert` for Keras models: what is joined with what, and the same numbers before and after."""

import re
import textwrap
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import forked
from batchnorm import Activation
from batchnorm.keras import convert
from batchnorm.keras.layers import BatchNormalization

pytestmark = [pytest.mark.needs("keras", "tensorflow", "jax"), pytest.mark.forks]

Stock = layers.BatchNormalization
random = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _no_warnings():
    """If no layer is left out, nothing is said."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def scrambled(model):
    """The model with other weights and statistics than those it starts with."""
    for layer in model.layers:
        if isinstance(layer, Stock):
            for variable in layer.weights:
                variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return model


def state(model):
    return {weight.path: np.asarray(weight) for weight in model.weights}


def assert_same(one, other, within=1e-5):
    assert set(one) == set(other)
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], rtol=within, atol=within, err_msg=name)


@pytest.mark.parametrize(
    ("make", "counts"),
    [
        (
            "MobileNetV2",
            "52 batch norms: 35 joined with an activation, 10 with an addition, 0 with both, 7 with neither",
        ),
        (
            "ResNet50",
            "53 batch norms: 33 joined with an activation, 0 with an addition, 16 with both, 4 with neither",
        ),
    ],
)
def test_networks_of_keras_applications(make, counts, capsys):
    model = scrambled(getattr(keras.applications, make)(weights=None, input_shape=(32, 32, 3), classes=5))
    before = state(model)
    joined = convert(model, verbose=True, fuse=True)
    assert capsys.readouterr().out.splitlines()[-1] == counts
    found = [layer for layer in joined.layers if isinstance(layer, BatchNormalization)]
    assert not [layer for layer in joined.layers if type(layer) is Stock]
    first, both, _, neither = map(int, re.findall(r"(\d+) (?:joined|with)", counts))
    assert len(found) == int(counts.split()[0])
    assert sum(layer.activation is not None for layer in found) == first + _
    assert len(model.layers) - len(joined.layers) == first + both + 2 * _
    assert [weight.path for weight in joined.weights] == list(before)
    assert_same(state(joined), before, 0)
    x = random.normal(size=(4, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(joined(x), model(x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(joined(x, training=True), model(x, training=True), rtol=5e-2, atol=5e-3)
    assert_same(state(joined), state(model), 2e-3)
    apart = convert(joined, back=True)
    assert len(apart.layers) == len(model.layers)
    np.testing.assert_allclose(apart(x), model(x), rtol=1e-4, atol=1e-4)
    assert neither == len(found) - first - both - _


def block(x, name, order=False, after=None, norm=Stock):
    """A residual block of dense layers, its output before the activation at the given place."""
    y = norm(momentum=0.6, name=f"{name}_norm")(layers.Dense(4, name=f"{name}_dense")(x))
    y = layers.Add(name=f"{name}_add")([x, y] if order else [y, x])
    return y if after is None else after(y)


def small():
    """A bit of everything that is joined, and of what is not."""
    keras.utils.set_random_seed(3)
    x = given = keras.Input((4,), name="given")
    x = layers.ReLU(name="r1")(Stock(name="n1", momentum=0.5)(x))
    x = block(x, "b1", after=layers.LeakyReLU(negative_slope=0.1, name="r2"))
    x = block(x, "b2", True, layers.Activation("gelu", name="r3"))
    x = layers.Softmax(name="s")(Stock(name="n2")(x))
    shared = layers.ReLU(name="shared")
    x = shared(Stock(name="n3")(layers.Dense(4)(x)))
    x = shared(layers.Dense(4)(x))
    y = Stock(name="n4")(x)  # used twice
    x = layers.Multiply()([layers.ReLU(name="r4")(y), y])
    x = layers.ReLU(name="r5")(Stock(name="n5")(layers.Dropout(0.0)(x), training=False))
    x = layers.Add(name="wide")([Stock(name="n6")(x), x, x])
    x = layers.Add(name="twice")([Stock(name="n7")(layers.Dense(4)(x)), Stock(name="n8")(layers.Dense(4)(x))])
    return keras.Model(given, layers.Dense(2, name="last")(x))


TOLD = """
n1: joined with r1 (relu)
b1_norm: joined with b1_add and r2 (leaky_relu)
b2_norm: joined with b2_add and r3 (gelu)
n2: alone; s (Softmax) follows
n3: joined with shared (relu)
n4: alone; what follows is used several times
n5: joined with r5 (relu)
n6: alone; wide adds more than two tensors
n7: alone; twice is joined with another
n8: joined with twice; last (Dense) follows
10 batch norms: 3 joined with an activation, 1 with an addition, 2 with both, 4 with neither
"""


def data():
    return random.normal(2.0, 3.0, (16, 4)).astype("float32"), random.normal(size=(16, 2)).astype("float32")


def fitted(model, x, y):
    model.compile(keras.optimizers.SGD(0.1), loss="mse", run_eagerly=True)
    for _ in range(3):
        model.train_on_batch(x, y)
    return state(model)


@pytest.mark.parametrize("fuse", [True, False])
def test_a_model_trains_as_before(fuse, capsys):
    model = scrambled(small())
    joined = convert(model, fuse=fuse, verbose=True)
    told = capsys.readouterr().out
    if fuse:
        assert told == TOLD.lstrip()
        names = {layer.name for layer in joined.layers}
        gone = {"r1", "b1_add", "r2", "b2_add", "r3", "r5", "twice"}
        assert {layer.name for layer in model.layers} - names == gone
    else:
        assert "10 batch norms: 0 joined" in told
        assert len(joined.layers) == len(model.layers)
    apart = convert(joined, back=True)
    assert not [layer for layer in apart.layers if isinstance(layer, BatchNormalization)]
    x, y = data()
    for one in (joined, apart):
        assert_same(state(one), state(model), 0)
        np.testing.assert_allclose(one(x), model(x), rtol=1e-5, atol=1e-6)
    found = [fitted(one, x, y) for one in (model, joined, apart)]
    for one in found[1:]:
        assert_same(one, found[0], 1e-4)


def test_on_jax():
    program = """
        import keras, numpy as np
        from batchnorm.keras import convert
        x = given = keras.Input((4,))
        for place in range(2):
            y = keras.layers.BatchNormalization(momentum=0.5)(keras.layers.Dense(4)(x))
            x = keras.layers.ReLU()(keras.layers.Add()([x, y] if place else [y, x]))
        model = keras.Model(given, x)
        joined = convert(model, verbose=True, fuse=True)
        rows = np.random.default_rng(0).normal(2.0, 3.0, (8, 4)).astype("float32")
        for one in (model, joined, convert(joined, back=True)):
            one.compile(keras.optimizers.SGD(0.1), loss="mse")
            for _ in range(2):
                one.train_on_batch(rows, -rows)
            for weight, want in zip(one.get_weights(), model.get_weights(), strict=True):
                np.testing.assert_allclose(weight, want, rtol=1e-4, atol=1e-5)
    """
    variables = {"KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = forked.run(["keras"], "-c", textwrap.dedent(program), env=variables)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 batch norms: 0 joined with an activation, 0 with an addition, 2 with both" in done.stdout


def test_nested_and_sequential_models():
    inner = keras.Sequential([layers.Dense(4), Stock(name="a"), layers.ReLU(max_value=6)], name="inner")
    x = keras.Input((4,))
    deeper = keras.Model(x, layers.Activation("tanh")(Stock(name="b")(x)), name="deeper")
    y = deeper(inner(x))
    model = keras.Model(x, [inner(y), Stock(name="c")(y)])
    joined = convert(model, fuse=True)
    first, second = joined.get_layer("inner"), joined.get_layer("deeper")
    assert [layer.name for layer in first.layers] == [inner.layers[0].name, "a"]
    assert first.get_layer("a").activation is keras.activations.relu6
    assert second.get_layer("b").activation is keras.activations.tanh
    rows, _ = data()
    for one, other in zip(joined(rows, training=True), model(rows, training=True), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert_same(state(joined), state(model))
    apart = convert(joined, back=True)
    assert [type(layer) for layer in apart.get_layer("inner").layers] == [layers.Dense, Stock, layers.ReLU]
    for one, other in zip(apart(rows), model(rows), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_a_sequential_model_of_unknown_size():
    model = keras.Sequential([layers.Dense(3), Stock(name="n"), layers.ReLU()])
    joined = convert(model, fuse=True)
    assert not joined.built
    assert joined(data()[0]).shape == (16, 3)
    rows = data()[0]
    want = model(rows)
    np.testing.assert_allclose(convert(model, fuse=True)(rows), want, rtol=1e-6)


OTHER = {
    "another dtype": lambda x: layers.ReLU(dtype="float64")(Stock(name="n")(x)),
    "a regularizer behind": lambda x: layers.ReLU(activity_regularizer="l2")(Stock(name="n")(x)),
    "a regularizer": lambda x: layers.ReLU()(Stock(name="n", activity_regularizer="l2")(x)),
    "broadcasting": lambda x: layers.Add()([Stock(name="n")(x), layers.Dense(1)(x)]),
    "the same twice": lambda x: (lambda y: layers.Add()([y, y]))(Stock(name="n")(x)),
    "an operation": lambda x: Stock(name="n")(x) + x,
    "max_value=5": lambda x: layers.ReLU(5.0)(Stock(name="n")(x)),
    "called twice": lambda x: (lambda norm: norm(norm(x)))(Stock(name="n")),
    "an output": lambda x: Stock(name="n")(x),
    "outputs": lambda x: [layers.ReLU()(Stock(name="n")(x)), layers.Dense(4)(x)],
    "masks": lambda x: layers.Add()([Stock(name="n")(y := layers.Masking()(layers.Reshape((2, 2))(x))), y]),
}


@pytest.mark.parametrize("name", OTHER)
def test_what_is_not_joined(name, capsys):
    x = keras.Input((4,))
    model = keras.Model(x, OTHER[name](x))
    joined = convert(model, verbose=True, fuse=True)
    line, last = capsys.readouterr().out.splitlines()
    assert re.match(r"n: alone; \w+", line)
    assert last.endswith("1 with neither")
    assert [type(layer) for layer in joined.layers] == [
        BatchNormalization if type(layer) is Stock else type(layer) for layer in model.layers
    ]
    rows, _ = data()
    for one, other in zip(np.atleast_1d(joined(rows)), np.atleast_1d(model(rows)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_an_activation_layer_that_is_called_again_on_the_result():
    x, leaky = keras.Input((4,)), layers.LeakyReLU(negative_slope=0.5, name="leaky")
    model = keras.Model(x, leaky(leaky(Stock(name="n")(x))))
    joined = convert(model, fuse=True)
    assert joined.get_layer("n").activation == Activation("leaky_relu", 0.5)
    rows, _ = data()
    np.testing.assert_allclose(joined(rows), model(rows), rtol=1e-6, atol=1e-6)


def test_ours_in_the_model_keep_what_they_have():
    x, z = keras.Input((4,)), keras.Input((4,), name="z")
    y = BatchNormalization(virtual_batch_size=4, adjustment=lambda shape: (2.0, 0.5), name="a")(x, residual=z)
    y = layers.Add(name="add")([y, z])
    y = BatchNormalization(activation=layers.PReLU("ones"), name="b")(y)
    y = BatchNormalization(renorm=True, name="c")(y, residual=z)
    y = layers.ReLU(name="relu")(y)
    model = keras.Model([x, z], y)
    joined = convert(model, fuse=True)
    assert [
        layer.name for layer in model.layers if layer.name not in {each.name for each in joined.layers}
    ] == ["relu"]
    assert joined.get_layer("a").adjustment is model.get_layer("a").adjustment
    given = data()[0], data()[0]
    np.testing.assert_allclose(
        joined(given, training=True), model(given, training=True), rtol=1e-5, atol=1e-5
    )
    assert_same(state(joined), state(model))


def test_functions_of_the_program():
    def triple(x):
        return 3.0 * x

    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(4, activation=triple),
            layers.Lambda(lambda x: x + 1.0),
            BatchNormalization(activation=triple),
        ]
    )
    rows, _ = data()
    for one in (convert(model, fuse=True), convert(model, back=True)):
        np.testing.assert_allclose(one(rows), model(rows), rtol=1e-6)


@pytest.mark.parametrize("inner", [False, True])
def test_frozen_layers_stay_frozen(inner):
    model = small()
    (model.get_layer("b1_norm") if inner else model).trainable = False
    model.get_layer("n2").trainable = True
    joined = convert(model, fuse=True)
    assert joined.trainable is inner
    assert len(joined.trainable_weights) == len(model.trainable_weights)
    for layer in joined.layers:
        assert layer.trainable is model.get_layer(layer.name).trainable, layer.name
    assert [layer.trainable for layer in convert(joined, back=True).layers if isinstance(layer, Stock)] == [
        layer.trainable for layer in joined.layers if isinstance(layer, BatchNormalization)
    ]


def test_a_compiled_model_is_compiled():
    model = small()
    model.compile("adam", "mse")
    assert isinstance(convert(model, fuse=True).optimizer, keras.optimizers.Adam)
    row = keras.Sequential([keras.Input((4,)), Stock(), layers.ReLU()])
    row.compile("adam", "mse")
    assert isinstance(convert(row, fuse=True).optimizer, keras.optimizers.Adam)
