"""The NNX module's activation and residual: against Flax's own module and JAX's functions in a row."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from batchnorm import Activation
from batchnorm.flax import BatchNorm

pytestmark = pytest.mark.needs("flax", "jax")

SHAPE = (8, 2, 3)


def batch(seed=0, dtype="float32"):
    return jnp.asarray(np.random.RandomState(seed).randn(*SHAPE) * 3.0 + 1.0, dtype)


# What the module is given, and what it means.
ACTIVATIONS = {
    "nothing": (None, lambda u: u),
    "relu": ("relu", jax.nn.relu),
    "relu6": ("relu6", jax.nn.relu6),
    "leaky_relu": ("leaky_relu", jax.nn.leaky_relu),
    "silu": ("silu", jax.nn.silu),
    "swish": ("swish", jax.nn.silu),
    "hard_swish": ("hard_swish", jax.nn.hard_swish),
    "hard_silu": ("hard_silu", jax.nn.hard_swish),
    "hard_tanh": ("hard_tanh", jax.nn.hard_tanh),
    "a name means the package's gelu": ("gelu", partial(jax.nn.gelu, approximate=False)),
    "gelu_tanh": ("gelu_tanh", jax.nn.gelu),
    "sigmoid": ("sigmoid", jax.nn.sigmoid),
    "tanh": ("tanh", jnp.tanh),
    "record": (Activation("leaky_relu", 0.3), partial(jax.nn.leaky_relu, negative_slope=0.3)),
    "function relu": (nnx.relu, jax.nn.relu),
    "function leaky_relu": (jax.nn.leaky_relu, jax.nn.leaky_relu),
    "a function means itself": (jax.nn.gelu, partial(jax.nn.gelu, approximate=True)),
    "function hard_silu": (jax.nn.hard_silu, jax.nn.hard_silu),
    "function tanh": (jnp.tanh, jnp.tanh),
    "softmax": (jax.nn.softmax, jax.nn.softmax),
    "partial": (partial(jax.nn.gelu, approximate=False), partial(jax.nn.gelu, approximate=False)),
    "a program's": (lambda u: jnp.sin(u), jnp.sin),
}
FUSED = [name for name in ACTIVATIONS if name not in ("nothing", "softmax", "partial", "a program's")]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_slopes(name, residual):
    activation, function = ACTIVATIONS[name]
    ours = BatchNorm(3, momentum=0.6, activation=activation, rngs=nnx.Rngs(0))
    theirs = nnx.BatchNorm(3, momentum=0.6, rngs=nnx.Rngs(0))
    assert (ours_fuses(ours) is not None) is (name in FUSED)
    x, z, weights = batch(), batch(1) if residual else None, batch(2)

    def apart(module, x, z):
        return function(module(x) if z is None else module(x) + z)

    def joined(module, x, z):
        return module(x, residual=z)

    found = []
    for module, call in ((ours, joined), (theirs, apart)):

        def loss(module, x, z, call=call):
            y = call(module, x, z)
            return (y * weights).sum(), y

        argnums = (0, 1, 2) if residual else (0, 1)
        (_, y), gradients = nnx.value_and_grad(loss, argnums=argnums, has_aux=True)(module, x, z)
        found.append([y, *jax.tree.leaves(gradients), module.mean[...], module.var[...]])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def ours_fuses(module):
    from batchnorm.flax._activation import fusable

    return fusable(module.activation)


OPTIONS = {
    "renorm": {"renorm": True},
    "ghosts": {"virtual_batch_size": 4},
    "smaller": {"virtual_batch_size": 5, "ghost_remainder": "smaller"},
    "adjustment": {"adjustment": lambda shape: (1.5, jnp.ones((shape[0], 1, 1)))},
    "plain": {"fused": False},
    "two axes": {"axis": (1, 2)},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_with_the_other_options(name):
    features = 6 if name == "two axes" else 3
    joined, plain = (
        BatchNorm(features, **OPTIONS[name], **given, rngs=nnx.Rngs(0))
        for given in ({"activation": "gelu"}, {})
    )
    mask = batch(5) > 0
    for step in range(2):
        x, z = batch(step), batch(step + 7)
        want = jax.nn.gelu(plain(x, mask=mask) + z, approximate=False)
        np.testing.assert_allclose(joined(x, mask=mask, residual=z), want, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(joined.mean[...], plain.mean[...], rtol=1e-6)
    for module in (joined, plain):
        module.eval()
    want = jax.nn.gelu(plain(x) + z, approximate=False)
    np.testing.assert_allclose(joined(x, residual=z), want, rtol=1e-5, atol=1e-5)


def test_training_under_jit_with_an_optimizer():
    from optax import sgd

    found = []
    for activation in ("relu", lambda u: jnp.maximum(u, 0.0)):
        module = BatchNorm(3, activation=activation, rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(module, sgd(0.1), wrt=nnx.Param)

        @nnx.jit
        def step(module, optimizer, x, z):
            gradients = nnx.grad(lambda module: (module(x, residual=z) ** 2).sum())(module)
            optimizer.update(module, gradients)

        for seed in range(3):
            step(module, optimizer, batch(seed), batch(seed + 5))
        found.append(jax.tree.leaves(nnx.state(module)))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("running", [False, True])
def test_16_bits_are_rounded_once(running):
    module = BatchNorm(
        3, dtype=jnp.bfloat16, activation="silu", use_running_average=running, rngs=nnx.Rngs(0)
    )
    module.mean[...] = jnp.full(3, 1.3)
    x, z = batch(dtype="bfloat16"), batch(1, "bfloat16")
    y = module(x, residual=z)
    assert y.dtype == jnp.bfloat16
    wide = np.asarray(x, "float64")
    mean, variance = (1.3, 1.0) if running else (wide.mean((0, 1)), wide.var((0, 1)))
    u = (wide - mean) / np.sqrt(variance + 1e-5) + np.asarray(z, "float64")
    want = u / (1.0 + np.exp(-u))
    assert np.all(np.abs(np.asarray(y, "float64") - want) <= 2.0**-8 * np.abs(want) + 1e-6)


def test_a_module_as_activation_keeps_its_parameters():
    module = BatchNorm(3, activation=nnx.PReLU(0.3), rngs=nnx.Rngs(0))
    x = batch()
    y = module(x)
    plain = BatchNorm(3, rngs=nnx.Rngs(0))(x)
    np.testing.assert_allclose(y, jnp.where(plain > 0, plain, 0.3 * plain), rtol=1e-5, atol=1e-6)
    assert len(jax.tree.leaves(nnx.state(module, nnx.Param))) == 3


def test_an_activation_may_be_assigned():
    module = BatchNorm(3, activation="relu", rngs=nnx.Rngs(0))
    assert float(module(batch()).min()) == 0.0
    module.activation = None
    assert float(module(batch()).min()) < 0.0


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            "elu",
            ValueError,
            r"activation='elu' was asked for\. There is no .* by name\. .* or jax\.nn\.elu itself",
        ),
        ("no", ValueError, r"a function such as jax\.nn\.elu itself"),
        (0.5, TypeError, r"activation=0\.5 was asked for\. It is applied to"),
    ],
)
def test_what_is_no_activation(given, error, message):
    with pytest.raises(error, match=message):
        BatchNorm(3, activation=given, rngs=nnx.Rngs(0))


def test_a_residual_of_another_shape():
    module = BatchNorm(3, rngs=nnx.Rngs(0))
    for running in (False, True):
        with pytest.raises(
            ValueError, match=r"A residual of shape \(3,\) came with an input of shape \(8, 2, 3\)"
        ):
            module(batch(), running, residual=jnp.ones(3))
    np.testing.assert_array_equal(module.mean[...], np.zeros(3))
