"""Weights that are negative or NaN: refused if they are known, except by APIs whose originals compute with them."""

import importlib

import numpy as np
import pytest

import batchnorm
from batchnorm import Options

X = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
OPTIONS = Options(decay=0.5, epsilon=1e-3)
REFUSED = (
    r"^{} containing (-0\.5|nan) was given\. A weight says how much .*\. Pass finite numbers that are not"
)
WRONG = [(1.0, -0.5, 1.0, 1.0), (1.0, float("nan"), 0.0, 1.0)]
MADE = {
    "numpy": lambda numpy, values: numpy.asarray(values, "float32"),
    "tensorflow": lambda tf, values: tf.constant(values, tf.float32),
    "torch": lambda torch, values: torch.tensor(values),
    "jax": lambda jax, values: jax.numpy.asarray(values, "float32"),
}
NARROW = {
    "tensorflow": lambda tf, weights: tf.cast(weights, tf.bfloat16),
    "torch": lambda torch, weights: torch.as_tensor(weights, dtype=torch.bfloat16),
    "jax": lambda jax, weights: weights.astype("bfloat16"),
}


def step(x, weights, options=OPTIONS):
    params, state = batchnorm.init(options, x.shape, like=x)
    return batchnorm.batch_norm(x, params, state, options, training=True, weights=weights)


@pytest.mark.parametrize("values", WRONG, ids=["negative", "nan"])
@pytest.mark.parametrize("framework", MADE)
def test_the_pure_function_refuses_them(framework, values) -> None:
    module = pytest.importorskip(framework)
    x, weights = MADE[framework](module, X.tolist()), MADE[framework](module, values)
    kinds = [weights, *([NARROW[framework](module, weights)] if framework in NARROW else [])]
    for each in kinds:
        with pytest.raises(ValueError, match=REFUSED.format("An array of weights")):
            step(x, each)
        with pytest.raises(ValueError, match=REFUSED.format("An array of weights")):
            batchnorm.explain(x, OPTIONS, weights=each)


@pytest.mark.parametrize(
    "weights", [np.zeros((4,)), np.ones((4,), bool), np.ones((4,), "uint8"), np.arange(4)]
)
def test_it_takes_all_others(weights) -> None:
    y, _ = step(X, weights)
    assert np.isfinite(y).all()
    step(np.zeros((0, 3), "float32"), np.ones((0,)))


@pytest.mark.filterwarnings("error")
def test_a_nan_of_a_foreign_dtype_is_refused_without_a_warning() -> None:
    dtype = pytest.importorskip("ml_dtypes").bfloat16
    with pytest.raises(ValueError, match=REFUSED.format("An array of weights")):
        step(X, np.full(4, np.nan, dtype))


def test_torch_takes_weights_that_numpy_cannot_hold() -> None:
    torch = pytest.importorskip("torch")
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0])
    y, _ = step(torch.tensor(X), weights.to(torch.float8_e4m3fn))
    np.testing.assert_array_equal(y, step(torch.tensor(X), weights)[0])


def test_it_refuses_negative_integers() -> None:
    with pytest.raises(ValueError, match=r"^An array of weights containing -1 was given"):
        step(X, np.array([2, -1, 0, 1]))


def test_a_variable_of_tensorflow_is_looked_at_too() -> None:
    tf = pytest.importorskip("tensorflow")
    with pytest.raises(ValueError, match=REFUSED.format("An array of weights")):
        step(tf.constant(X), tf.Variable(WRONG[0]))


def test_tensorflow_does_not_look_into_a_function() -> None:
    tf = pytest.importorskip("tensorflow")
    y = tf.function(lambda x, weights: step(x, weights)[0])(tf.constant(X), tf.constant(WRONG[0]))
    assert np.isfinite(y).all()


def test_pytorch_does_not_look_through_a_transform_or_a_tracer() -> None:
    torch = pytest.importorskip("torch")
    layer = importlib.import_module("batchnorm.torch").BatchNorm1d(3)
    x, weights = torch.tensor(X), torch.tensor(WRONG[0])
    mapped = torch.func.vmap(lambda weights: step(x, weights)[0])(weights[None])
    traced = torch.jit.trace(layer, (x, weights), check_trace=False)
    assert torch.isfinite(mapped).all()
    assert torch.isfinite(traced(x, weights)).all()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.isfinite(compiled(x, weights)).all()
    # A device other than the CPU would have to be waited for.
    assert step(x.to("meta"), weights.to("meta"))[0].is_meta


def test_jax_does_not_look_through_a_transform() -> None:
    jax = pytest.importorskip("jax")
    x, weights = jax.numpy.asarray(X), jax.numpy.asarray(WRONG[0])
    assert jax.numpy.isfinite(jax.jit(lambda x, weights: step(x, weights)[0])(x, weights)).all()
    assert jax.numpy.isfinite(jax.vmap(lambda weights: step(x, weights)[0])(weights[None])).all()
    # Weights that are constants of the program are known when it is traced.
    with pytest.raises(ValueError, match=REFUSED.format("An array of weights")):
        jax.jit(lambda x: step(x, weights)[0])(x)


@pytest.mark.parametrize("values", WRONG, ids=["negative", "nan"])
def test_pytorchs_layer_refuses_them(values) -> None:
    torch = pytest.importorskip("torch")
    layer = importlib.import_module("batchnorm.torch").BatchNorm1d(3)
    x, weights = torch.tensor(X), torch.tensor(values, requires_grad=True)
    for training in (True, False):
        with pytest.raises(ValueError, match=REFUSED.format("A weight")):
            layer.train(training)(x, weight=weights)
    assert layer.num_batches_tracked == 0
    layer.train()(x, weight=weights.relu().nan_to_num().to(torch.float64))
    layer(x, mask=-torch.ones(4))  # a mask is only true or false


@pytest.mark.parametrize("values", WRONG, ids=["negative", "nan"])
def test_keras_layer_refuses_them(values) -> None:
    pytest.importorskip("keras")
    layer = importlib.import_module("batchnorm.keras.layers").BatchNormalization()
    weights = np.asarray(values, "float32")
    for training in (True, False):
        with pytest.raises(ValueError, match=REFUSED.format("A sample_weight").removeprefix("^")):
            layer(X, training=training, sample_weight=weights)
    layer(X, training=True, mask=-np.ones(4, "float32"))


@pytest.mark.parametrize("values", WRONG, ids=["negative", "nan"])
def test_flaxs_module_refuses_them(values) -> None:
    jnp, nnx = pytest.importorskip("jax.numpy"), pytest.importorskip("flax.nnx")
    module = importlib.import_module("batchnorm.flax").BatchNorm(3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=REFUSED.format("An array of weights")):
        module(jnp.asarray(X), weights=jnp.asarray(values))
    module(jnp.asarray(X), mask=-jnp.ones((4, 1)))


@pytest.mark.parametrize("face", ["contrib", "v1"])
def test_the_historical_apis_compute_with_negative_weights_as_their_originals(face) -> None:
    tf = pytest.importorskip("tensorflow")
    weights = np.asarray([3.0, -0.25, 2.0, 1.0], "float32")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        # What both originals call.
        mean, variance = tf.nn.weighted_moments(tf.constant(X), [0], tf.constant(weights[:, None]))
        if face == "contrib":
            call = importlib.import_module("batchnorm.contrib.layers").batch_norm
            y = call(tf.constant(X), epsilon=1e-3, batch_weights=tf.constant(weights))
        else:
            layer = importlib.import_module("batchnorm.compat.v1.layers").BatchNormalization(epsilon=1e-3)
            y = layer(tf.constant(X), training=True, mask=tf.constant(weights))
        session.run(tf.compat.v1.global_variables_initializer())
        wanted = (X - mean) / tf.sqrt(variance + 1e-3)
        y, wanted = session.run([y, wanted])
    assert np.isfinite(wanted).all()
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)
