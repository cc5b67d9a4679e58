"""What programs do with a step in JAX: options that are arrays, recomputation, and donated memory."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import batchnorm
from batchnorm import Clip, Ghost, Options, Renorm
from tolerances import assert_close

pytestmark = pytest.mark.needs("jax")

# The second is large enough for the kernels.
SHAPES = {"composed": (6, 3), "kernels": (64, 24, 3)}
BOUND = 1.5


def arrays(shape, dtype="float32"):
    return jnp.asarray(np.random.RandomState(0).randn(*shape) + 3.0, dtype)


def options_at(bound, **others) -> Options:
    """A schedule that drives every option that may be an array."""
    renorm = Renorm(Clip(1 / bound, bound, bound - 1), decay=1 - 0.1 / bound)
    return Options(decay=1 - 0.5 / bound, epsilon=bound / 100, renorm=renorm, **others)


def step_of(x, **others):
    params, start = batchnorm.init(options_at(BOUND, **others), x.shape, like=x)

    def step(x, bound, state=start):
        y, state = batchnorm.batch_norm(x, params, state, options_at(bound, **others), training=True)
        return jnp.sum(jnp.sin(y)), state

    return step, start


def scanned(step, start):
    def loss(x, bound):
        def body(state, bound):
            value, state = step(x, bound, state)
            return state, value

        state, values = lax.scan(body, start, jnp.stack([bound, bound]))
        return jnp.sum(values), state

    return loss


def looped(step, start):
    def loss(x, bound):
        def body(_, carry):
            value, state = step(x, bound, carry[1])
            return carry[0] + value, state

        return lax.fori_loop(0, 2, body, (jnp.zeros((), x.dtype), start))

    return loss


# How a program reaches a step, and how often it takes it. A loop with static bounds can be differentiated.
PROGRAMS = {
    "checkpoint": (lambda step, _: jax.checkpoint(step), 1),
    "cond": (
        lambda step, _: lambda x, bound: lax.cond(bound > 1, step, lambda x, b: step(x, b + 1), x, bound),
        1,
    ),
    "closure": (
        lambda step, _: lambda x, bound: lax.cond(bound > 1, lambda: step(x, bound), lambda: step(x, 9.0)),
        1,
    ),
    "scan": (scanned, 2),
    "scan of checkpoint": (lambda step, start: scanned(jax.checkpoint(step), start), 2),
    "loop": (looped, 2),
}


def first(tree):
    return jax.tree.map(lambda value: value[0], tree)


DERIVED = {
    "value": lambda f: f,
    "gradient": lambda f: jax.grad(f, has_aux=True),
    "both": lambda f: lambda x, bound: jax.jvp(jax.grad(lambda x: f(x, bound)[0]), (x,), (x,)),
    "twice": lambda f: jax.grad(lambda x, bound: jnp.sum(jax.grad(f, has_aux=True)(x, bound)[0] ** 2)),
    "forward": lambda f: lambda x, bound: jax.jvp(lambda x: f(x, bound), (x,), (x,)),
    "vmap": lambda f: (
        lambda x, bound: first(
            jax.vmap(jax.grad(f, has_aux=True), (None, 0))(x, jnp.stack([bound, 2 * bound]))
        )
    ),
}


@pytest.mark.parametrize(
    ("program", "derived", "size"),
    [
        *(("checkpoint", name, "composed") for name in ("value", "gradient", "both", "forward", "vmap")),
        *(("scan", name, "composed") for name in ("gradient", "forward")),
        *(("cond", "gradient", "composed"), ("closure", "gradient", "composed")),
        *(("loop", "value", "composed"), ("loop", "forward", "composed")),
        *(("checkpoint", "twice", "kernels"), ("scan", "vmap", "kernels"), ("cond", "vmap", "kernels")),
        ("scan of checkpoint", "gradient", "kernels"),
    ],
)
def test_options_that_are_arrays_are_inputs(program: str, derived: str, size: str) -> None:
    """The same results as with Python numbers, however the step is reached and differentiated."""
    x = arrays(SHAPES[size])
    step, start = step_of(x)
    reach, times = PROGRAMS[program]

    def by_hand(x, _):
        total, state = step(x, BOUND)
        for _ in range(times - 1):
            value, state = step(x, BOUND, state)
            total = total + value
        return total, state

    derive = DERIVED[derived]
    got = jax.jit(derive(reach(step, start)))(x, jnp.asarray(BOUND))
    want = jax.jit(derive(by_hand))(x, jnp.asarray(BOUND))
    for mine, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        scale = 1.0 + float(jnp.max(jnp.abs(other)))
        assert_close(mine / scale, other / scale, "float32", "arrays")


@pytest.mark.parametrize("kind", [int, np.float32, np.int64, jnp.float32, jnp.int32], ids=str)
def test_bounds_are_numbers_of_any_kind(kind) -> None:
    x = arrays((6, 3))

    def loss(x, bound):
        options = Options(renorm=Renorm(Clip(rmax=bound, dmax=bound)))
        params, state = batchnorm.init(options, x.shape, like=x)
        y, state = batchnorm.batch_norm(x, params, state, options, training=True)
        return jnp.sum(jnp.sin(y)), state

    expected = jax.grad(loss, has_aux=True)(x, 2.0)
    got = jax.grad(jax.checkpoint(lambda x: loss(x, kind(2))), has_aux=True)(x)
    for mine, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert mine.dtype == other.dtype
        assert_close(mine, other, "float32", "bounds")


@pytest.mark.parametrize("size", SHAPES)
def test_checkpointing_moves_the_state_once(size: str) -> None:
    """The function is pure: the recomputed state is discarded, so state and gradients are those of one step."""
    x = arrays(SHAPES[size])
    options = Options(decay=0.5, renorm=Renorm(Clip(0.5, 2.0, 1.0)), ghost=Ghost(2), debias_mean=True)
    params, state = batchnorm.init(options, x.shape, like=x)

    def network(x, params, state, recomputed):
        def block(x, params, state):
            return batchnorm.batch_norm(jnp.sin(x), params, state, options, training=True)

        block = jax.checkpoint(block) if recomputed else block
        y, state = block(x, params, state)
        return jnp.sum(jnp.sin(y)), state

    got, want = (
        jax.jit(jax.grad(lambda *a, how=how: network(*a, how), (0, 1), has_aux=True))(x, params, state)
        for how in (True, False)
    )
    assert float(got[1]["local_step"]) == 1.0
    for mine, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert_close(mine, other, "float32", "recomputed")


STATES = {
    "renorm": Options(renorm=Renorm()),
    "debiased renorm": Options(renorm=Renorm(form="debiased")),
    "all": Options(renorm=Renorm(), debias_mean=True),
    "equal decays": Options(decay=0.0, renorm=Renorm(decay=0.0), debias_mean=True),
}


def buffers(tree) -> list[int]:
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", STATES)
def test_each_array_owns_its_memory(name: str) -> None:
    """So that a program can donate parameters and state, step after step."""
    options, x = STATES[name], arrays((6, 3))
    params, state = batchnorm.init(options, x.shape, like=x)
    assert len(set(buffers((params, state)))) == len(params) + len(state)

    def train(x, params, state):
        y, state = batchnorm.batch_norm(x, params, state, options, training=True)
        return y, jax.tree.map(lambda value: value * 0.5, params), state

    def infer(x, params, state):
        y, state = batchnorm.batch_norm(x, params, state, options, training=False)
        return y, params, state

    expected = params, state
    donated = jax.tree.map(jnp.copy, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # JAX warns of memory that it could not use
        for function in (train, train, infer, train):
            y, *expected = function(x, *expected)
            got, *donated = jax.jit(function, donate_argnums=(1, 2))(x, *donated)
            assert_close(got, y, "float32", "y")
            for each in (donated, expected):
                pointers = buffers(each)
                assert len(set(pointers)) == len(pointers)
    for mine, other in zip(jax.tree.leaves(donated), jax.tree.leaves(expected), strict=True):
        assert_close(mine, other, "float32", "donated")
