"""The module beside `flax.nnx.BatchNorm`: random shapes and options, their states in each other, training, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from batchnorm.flax import BatchNorm
from tolerances import assert_close

pytestmark = [pytest.mark.needs("flax", "jax"), pytest.mark.slow(1)]


@st.composite
def requests(draw) -> dict:
    """Sizes of an input and arguments that both constructors take."""
    # Few shapes, so that JAX compiles few operations.
    shape = draw(st.sampled_from([(4, 3), (3, 3, 3), (2, 3, 3, 2)]))
    rank = len(shape)
    arguments = {
        # Flax's own fails on several axes.
        "axis": draw(st.integers(-rank, rank - 1)),
        "momentum": draw(st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0])),
        "epsilon": draw(st.sampled_from([1e-5, 1e-3, 0.1])),
        "use_bias": draw(st.booleans()),
        "use_scale": draw(st.booleans()),
        "use_fast_variance": draw(st.booleans()),
        "use_running_average": draw(st.sampled_from([None, False, True])),
        "bias_init": nnx.initializers.normal(1.0),
        "scale_init": nnx.initializers.normal(1.0),
        "param_dtype": draw(st.sampled_from([jnp.float32, jnp.bfloat16])),
        "dtype": draw(st.sampled_from([None, None, jnp.float32, jnp.bfloat16])),
    }
    return {
        "shape": shape,
        "arguments": arguments,
        "masked": draw(st.sampled_from([None, "whole", "broadcast"])),
        "x_dtype": draw(st.sampled_from(["float32", "float32", "bfloat16", "int32"])),
        "running": draw(st.booleans()),
        "seed": draw(st.integers(0, 999)),
    }


@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(requests())
def test_numbers_are_those_of_flax(request: dict) -> None:
    """Two steps: outputs, gradients and statistics. Ours is as close to it as its own 16-bit arithmetic is."""
    random = np.random.RandomState(request["seed"])
    shape, arguments = request["shape"], request["arguments"]
    features = shape[arguments["axis"]]
    ours = BatchNorm(features, **arguments, rngs=nnx.Rngs(3))
    theirs = nnx.BatchNorm(features, **arguments, rngs=nnx.Rngs(3))
    running = request["running"] if arguments["use_running_average"] is None else None
    reads = running if running is not None else arguments["use_running_average"]
    mask = mask_of(request, random)
    narrow = "bfloat16" in (str(jnp.dtype(arguments["dtype"] or "float32")), request["x_dtype"])
    within = 5e-2 if narrow or arguments["param_dtype"] == jnp.bfloat16 else 2e-4
    for _ in range(2):
        x = jnp.asarray(random.randn(*shape) * 2 + 1).astype(request["x_dtype"])
        dy = jnp.asarray(random.randn(*shape), jnp.float32)
        results = [run(module, x, dy, running, mask) for module in (ours, theirs)]
        (y, gradients), (their_y, their_gradients) = results
        assert y.dtype == their_y.dtype
        assert_close(y, their_y, "float32", "y", within=within, scale=1 + np.abs(their_y).max())
        assert set(gradients) == set(their_gradients)
        for name, value in their_gradients.items():
            assert gradients[name].dtype == value.dtype
            # Near a variance of zero both lose digits: what counts is the size of the whole gradient.
            scale = 1 + np.abs(np.asarray(value, np.float64)).max() * (10 if name == "x" else 1)
            assert_close(gradients[name], value, "float32", name, within=within, scale=scale)
        for name in ("mean", "var"):
            mine, other = getattr(ours, name)[...], getattr(theirs, name)[...]
            assert mine.dtype == jnp.float32
            assert_close(mine, other, "float32", name, within=5e-2 if narrow and not reads else 1e-4)


def mask_of(request: dict, random: np.random.RandomState):
    """Some three quarters of the numbers; what every channel sees always has some left."""
    if request["masked"] is None:
        return None
    mask = random.rand(*request["shape"]) < 0.75
    channels = request["arguments"]["axis"] % mask.ndim
    if request["masked"] == "broadcast":
        mask = mask.take([0], channels)
    mask[tuple(slice(None) if axis == channels else slice(2) for axis in range(mask.ndim))] = True
    return jnp.asarray(mask)


def run(module, x, dy, running, mask) -> tuple:
    """y and the gradients of Σ dy·y with respect to x and the parameters."""

    def loss(module, x):
        y = module(x, running, mask=mask)
        return jnp.sum(y.astype(jnp.float32) * dy), y

    wrt = (0, 1) if jnp.issubdtype(x.dtype, jnp.inexact) else (0,)
    gradients, y = nnx.grad(loss, argnums=wrt, has_aux=True)(module, x)
    found = {name: value[...] for name, value in gradients[0].items()}
    if len(wrt) == 2:
        found["x"] = gradients[1]
    return y, found


def test_state_goes_from_one_into_the_other_and_back() -> None:
    x = jnp.asarray(np.random.RandomState(0).randn(6, 3), jnp.float32)
    theirs, ours = nnx.BatchNorm(3, rngs=nnx.Rngs(0)), BatchNorm(3, rngs=nnx.Rngs(1))
    theirs(x)
    theirs.scale[...] = jnp.arange(3.0)
    assert jax.tree.structure(nnx.state(theirs)) == jax.tree.structure(nnx.state(ours))
    for kind in (nnx.Param, nnx.BatchStat):
        assert set(nnx.state(ours, kind)) == set(nnx.state(theirs, kind))
    nnx.update(ours, nnx.state(theirs))
    theirs.eval(), ours.eval()
    assert_close(ours(x), theirs(x), "float32", "y")
    ours.train()
    ours(x)
    nnx.update(theirs, nnx.state(ours))
    ours.eval()
    assert_close(theirs(x), ours(x), "float32", "y")


def test_renorm_starts_from_flax_state() -> None:
    x = jnp.asarray(np.random.RandomState(0).randn(6, 3), jnp.float32)
    theirs, ours = nnx.BatchNorm(3, rngs=nnx.Rngs(0)), BatchNorm(3, renorm=True, rngs=nnx.Rngs(1))
    theirs(x)
    nnx.update(ours, nnx.state(theirs))
    assert_close(ours(x, True), theirs(x, True), "float32", "y")


def test_a_model_trains_as_with_flax() -> None:
    """The same small network with either, in `nnx.jit` with an optimizer, to the same losses."""
    optax = pytest.importorskip("optax")

    class Network(nnx.Module):
        def __init__(self, norm, rngs):
            # A bias here has no gradient but rounding, which Adam would make large.
            self.first = nnx.Linear(4, 8, use_bias=False, rngs=rngs)
            self.norm = norm(8, momentum=0.9, rngs=rngs)
            self.last = nnx.Linear(8, 1, rngs=rngs)

        def __call__(self, x):
            return self.last(nnx.relu(self.norm(self.first(x))))

    def losses(norm) -> list[float]:
        random = np.random.RandomState(0)
        model = Network(norm, nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer, x, target):
            loss, gradients = nnx.value_and_grad(lambda m: jnp.mean((m(x) - target) ** 2))(model)
            optimizer.update(model, gradients)
            return loss

        found = []
        for _ in range(20):
            x = jnp.asarray(random.randn(16, 4), jnp.float32)
            found.append(float(step(model, optimizer, x, jnp.sin(x.sum(1, keepdims=True)))))
        model.eval()
        return [*found, float(jnp.sum(model(jnp.ones((2, 4)))))]

    mine, other = losses(BatchNorm), losses(nnx.BatchNorm)
    assert other[19] < other[0]
    assert_close(mine, other, "float32", "losses", within=1e-3)


def test_their_oldest_arguments_are_all_here() -> None:
    import inspect

    mine = inspect.signature(BatchNorm.__init__).parameters
    for name, theirs in inspect.signature(nnx.BatchNorm.__init__).parameters.items():
        assert name in mine
        if isinstance(theirs.default, bool | int | float | type(None)):
            assert mine[name].default == theirs.default, name
