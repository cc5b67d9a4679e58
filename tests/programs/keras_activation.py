"""Checks of the layer's activation and residual on the backend that KERAS_BACKEND names.

`test_keras_activation` imports them, and runs this program for another backend than its own: it prints a JSON object
that has for each check its traceback, or nothing. One model has a branch for each
case, so that a backend compiles two models in all: ours, and stock layers in a row.
"""

import json
import sys
import tempfile
import traceback
from pathlib import Path

import keras
import numpy as np

import batchnorm
from batchnorm.keras.layers import BatchNormalization

BACKEND = keras.backend.backend()
Stock = keras.layers.BatchNormalization
number = keras.ops.convert_to_numpy


@keras.saving.register_keras_serializable(package="tests")
def wave(x):
    return keras.ops.sin(x)


@keras.saving.register_keras_serializable(package="tests")
def brighten(shape):
    steps = keras.ops.cast(keras.ops.arange(shape[0]), "float32") / 10.0
    return keras.ops.reshape(1.0 + steps, (-1, 1)), keras.ops.reshape(steps, (-1, 1))


# What our layer is given, and the stock layer that follows Keras' own.
ACTIVATIONS = {
    "none": (None, lambda: keras.layers.Activation("linear")),
    "relu": ("relu", keras.layers.ReLU),
    "gelu": ("gelu", lambda: keras.layers.Activation("gelu")),
    "record": (batchnorm.Activation("leaky_relu", 0.4), lambda: keras.layers.LeakyReLU(negative_slope=0.4)),
    "softmax": ("softmax", lambda: keras.layers.Activation("softmax")),
    "wave": (wave, lambda: keras.layers.Activation(wave)),
    "prelu": (keras.layers.PReLU, None),
}
OPTIONS = {
    "renorm": {"renorm": True, "renorm_clipping": {"rmax": 1.1, "dmax": 0.2}},
    "ghosts": {"virtual_batch_size": 4, "ghost_order": "contiguous"},
    "smaller": {"virtual_batch_size": 5, "ghost_remainder": "smaller"},
    "adjustment": {"adjustment": brighten},
    "plain": {"fused": False},
    "sample": {"axis": [-1], "variance": "sample"},
}


# "-z" has a residual. JAX compiles long for many.
LABELS = ("relu", "softmax", *(f"{name}-z" for name in (*ACTIVATIONS, *OPTIONS)))
if BACKEND != "tensorflow":
    LABELS = ("relu", "gelu-z", "wave-z", "renorm-z", "smaller-z", "adjustment-z")


def data(seed=0):
    random = np.random.default_rng(seed)
    return random.normal(2.0, 3.0, (8, 6)).astype("float32"), random.normal(size=(8, 5)).astype("float32")


def dense(units, name):
    start = keras.initializers.RandomNormal(stddev=0.7, seed=sum(map(ord, name)))
    return keras.layers.Dense(units, use_bias=False, name=name, kernel_initializer=start)


def branches(make):
    """A model of all branches: `make(name, x, z)` is one, and z is None in the first of each pair."""
    x = keras.Input((6,))
    outputs = [
        make(label, dense(5, f"x-{label}")(x), dense(5, f"z-{label}")(x) if label.endswith("-z") else None)
        for label in LABELS
    ]
    return keras.Model(x, outputs)


def ours(label, x, z):
    name = label.removesuffix("-z")
    options = OPTIONS.get(name, {})
    activation = "relu" if name in OPTIONS else ACTIVATIONS[name][0]
    activation = activation("ones") if activation is keras.layers.PReLU else activation
    layer = BatchNormalization(momentum=0.7, activation=activation, name=label, **options)
    return layer(x) if z is None else layer(x, residual=z)


def in_a_row(label, x, z):
    name = label.removesuffix("-z")
    options = OPTIONS.get(name)
    norm = Stock(momentum=0.7, name=label) if options is None else None
    norm = norm or BatchNormalization(momentum=0.7, name=label, **options)
    y = norm(x)
    y = y if z is None else keras.layers.Add()([y, z])
    if name == "prelu":
        return keras.layers.PReLU("ones", name=f"{label}-slope")(y)
    return (keras.layers.ReLU if options is not None else ACTIVATIONS[name][1])()(y)


def fitted(make, **how):
    model = branches(make)
    model.compile(keras.optimizers.SGD(0.1), loss="mse", **how)
    x, y = data()
    for _ in range(3):
        model.train_on_batch(x, [y] * len(model.outputs))
    return model


def known(model):
    """Predictions and weights, by the names of the layers."""
    x, _ = data(1)
    found = dict(zip(LABELS, map(number, model(x)), strict=True))
    for layer in model.layers:
        weights = [number(v) for v in layer.weights]
        found |= {f"{layer.name} {place}": value for place, value in enumerate(weights)}
    return {name.replace("-slope 0", " 4"): value for name, value in found.items()}


def assert_same(found, want, within=1e-4):
    assert set(found) == set(want), set(found) ^ set(want)
    for name, value in want.items():
        np.testing.assert_allclose(found[name], value, rtol=within, atol=within, err_msg=name)


MODELS = {}


def training():
    """Statistics, parameters and, through the layers before, the gradients of inputs and residuals."""
    how = {} if BACKEND == "jax" else {"run_eagerly": True}
    MODELS["ours"] = fitted(ours, **how)
    found, want = known(MODELS["ours"]), known(fitted(in_a_row, **how))
    assert len(found) > 6 * len(LABELS)
    assert_same(found, want)


def saving():
    model = MODELS.get("ours") or branches(ours)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder, "model.keras"))
        loaded = keras.saving.load_model(Path(folder, "model.keras"))
    assert_same(known(loaded), known(model), 1e-6)
    for layer in model.layers:
        if isinstance(layer, BatchNormalization) and "prelu" not in layer.name:
            config = layer.get_config()
            assert loaded.get_layer(layer.name).get_config() == config
            assert json.loads(json.dumps(config)) == config, layer.name


def rounding():
    """In mixed precision one number is rounded once."""
    random = np.random.default_rng(2)
    x, z = (random.normal(1.0, 3.0, (64, 5)).astype("float16") for _ in range(2))
    wide = x.astype("float64")
    for training in (True, False):
        moving = {
            f"moving_{name}_initializer": keras.initializers.Constant(1.3) for name in ("mean", "variance")
        }
        layer = BatchNormalization(activation="gelu", dtype="mixed_float16", epsilon=0.0, **moving)
        y = number(layer(x, training=training, residual=z))
        mean, deviation = (wide.mean(0), wide.std(0)) if training else (1.3, 1.3**0.5)
        u = (wide - mean) / deviation + z
        erf = np.vectorize(__import__("math").erf)
        want = 0.5 * u * (1.0 + erf(u / np.sqrt(2.0)))
        assert y.dtype == np.float16
        unit = np.spacing(np.abs(want).astype("float16")).astype("float64")
        assert (np.abs(y - want) <= 0.51 * unit + 2e-6).all(), np.max(np.abs(y - want) / unit)


def calls():
    """Without fit: a frozen layer, masks, weights, NumPy arrays, and a stateless call."""
    x, z = data()[0], data(3)[0]
    plain, joined = BatchNormalization(), BatchNormalization(activation="relu")
    frozen = BatchNormalization(activation="relu", trainable=False)
    for layer in (plain, joined, frozen):
        layer.build(x.shape)
    weight = np.arange(8.0, dtype="float32")
    both = (("mask", weight > 3), ("sample_weight", weight))
    for given in ({}, *({name: value} for name, value in both)):
        want = np.maximum(number(plain(x, training=True, **given)) + z, 0.0)
        y = number(joined(x, training=True, residual=z.astype("float64"), **given))
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
    want = np.maximum(x / np.sqrt(1.001) + z, 0.0)
    np.testing.assert_allclose(number(frozen(x, training=True, residual=z)), want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(number(frozen.moving_mean.value), np.zeros(6))
    np.testing.assert_array_equal(number(frozen.call(x, residual=z)), number(frozen(x, residual=z)))
    trained, state = (
        [v.value for v in each] for each in (joined.trainable_variables, joined.non_trainable_variables)
    )
    y, after = joined.stateless_call(trained, state, x, training=True, residual=z)
    want = number(joined(x, training=True, residual=z))
    np.testing.assert_allclose(number(y), want, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(number(after[0]), number(joined.moving_mean.value), rtol=1e-6, atol=1e-6)


def compiled():
    """A model compiled by the framework's compiler trains as one that is not."""

    def small(label):
        x = keras.Input((6,))
        return keras.Model(x, [ours(label, dense(5, "x")(x), dense(5, "z")(x))])

    found = []
    for how in ({"jit_compile": True}, {"run_eagerly": True}):
        model = small("gelu-z")
        model.compile(keras.optimizers.SGD(0.1), loss="mse", **how)
        for _ in range(2):
            model.train_on_batch(*data())
        found.append(model.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


CHECKS = {check.__name__: check for check in (training, saving, rounding, calls, compiled)}
# JAX compiles what it trains, and what one backend saves another loads in `test_keras_backends`.
ELSEWHERE = ("training", "rounding", "calls")


def main():
    failures = {}
    for name in ELSEWHERE:
        try:
            CHECKS[name]()
            failures[name] = ""
        except Exception:
            failures[name] = traceback.format_exc()
    print(json.dumps(failures))


if __name__ == "__main__":
    sys.exit(main())
