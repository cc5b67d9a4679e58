"""The NNX module in programs: donation, recomputation, and Linen networks."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from batchnorm.flax import BatchNorm
from tolerances import assert_close

pytestmark = pytest.mark.needs("flax", "jax")


def schedule(step):
    return {"rmax": 1.0 + step / 4.0, "rmin": 1.0 / (1.0 + step / 4.0), "dmax": step / 2.0}


# Modules with much state; the last one's bounds are arrays.
ASKED = {
    "plain": {},
    "all": {"renorm": True, "zero_debias": True, "virtual_batch_size": 4},
    "debiased renorm": {"renorm": True, "renorm_form": "debiased"},
    "schedule": {"renorm": True, "renorm_clipping": schedule},
}


def make(name: str, seed: int = 0) -> BatchNorm:
    return BatchNorm(4, momentum=0.5, **ASKED[name], rngs=nnx.Rngs(seed))


def batch(seed: int = 0):
    return jnp.asarray(np.random.RandomState(seed).randn(16, 4) + 2.0, jnp.float32)


def agree(got, want) -> None:
    for mine, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert_close(mine, other, "float32", "agree")


def owns_its_memory(module) -> bool:
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(nnx.state(module))]
    return len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("name", ASKED)
def test_a_module_can_be_donated(name: str) -> None:
    """Right after its construction: no two variables share an array, however their values were made."""
    module, other = make(name), make(name)
    assert owns_its_memory(module)
    assert owns_its_memory(nnx.jit(lambda: make(name))())
    step = nnx.jit(lambda module, x: module(x), donate_argnums=0)
    for seed in range(2):
        agree(step(module, batch(seed)), other(batch(seed)))
        assert owns_its_memory(module)
        assert owns_its_memory(other)
    nnx.update(module, nnx.state(nnx.BatchNorm(4, rngs=nnx.Rngs(1))))
    assert owns_its_memory(module)
    another = copy.deepcopy(module)
    step(module, batch())
    step(another, batch())
    agree(nnx.state(module), nnx.state(another))


@pytest.mark.parametrize("name", ASKED)
def test_remat_moves_the_statistics_once(name: str) -> None:
    def loss(module, x):
        return jnp.sum(jnp.sin(module(x)))

    module, recomputed = make(name), make(name)
    plain, again = (
        nnx.jit(nnx.grad(function, argnums=(0, 1))) for function in (loss, lambda *a: nnx.remat(loss)(*a))
    )
    for seed in range(2):
        agree(again(recomputed, batch(seed)), plain(module, batch(seed)))
        agree(nnx.state(recomputed), nnx.state(module))


class Critic(linen.Module):
    """A value of observations, in Linen, with our normalization or Linen's own."""

    ours: bool = True

    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.Dense(4)(x)
        if self.ours:
            norm = nnx.bridge.to_linen(BatchNorm, 4, momentum=0.9, name="norm")
            x = norm(x, use_running_average=not train)
        else:
            x = linen.BatchNorm(not train, momentum=0.9, name="norm")(x)
        return linen.Dense(1)(linen.relu(x))


def test_networks_of_linen_take_it() -> None:
    """The variables have the names of Linen's own layer, so that either network loads the other's."""
    x, ours, own = batch(), Critic(), Critic(ours=False)
    variables = own.init(jax.random.key(0), x, train=False)
    shapes = jax.tree.map(jnp.shape, dict(variables))
    assert jax.tree.map(jnp.shape, dict(ours.init(jax.random.key(0), x, train=False))) == shapes

    def step(critic, variables, x):
        def loss(params):
            y, after = critic.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return jnp.mean((y - 1.0) ** 2), after

        gradients, after = jax.grad(loss, has_aux=True)(variables["params"])
        return {"params": jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], gradients), **after}

    agree(step(ours, variables, x), step(own, variables, x))
    agree(ours.apply(variables, x, train=False), own.apply(variables, x, train=False))


def test_critics_side_by_side() -> None:
    """As in reinforcement learning: several critics of one class, mapped, each with statistics of its own."""

    class Renormed(linen.Module):
        @linen.compact
        def __call__(self, x, train: bool):
            norm = nnx.bridge.to_linen(BatchNorm, 4, momentum=0.9, renorm=True, name="norm")
            return linen.Dense(1)(norm(linen.Dense(4)(x), use_running_average=not train))

    pair = linen.vmap(
        Renormed,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        in_axes=None,
        axis_size=2,
    )()
    x = batch()
    variables = pair.init(jax.random.key(0), x, False)

    @jax.jit
    def step(variables, x):
        def loss(params):
            y, after = pair.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
            return jnp.mean((y - 1.0) ** 2), (y, after)

        return jax.grad(loss, has_aux=True)(variables["params"])

    gradients, (y, after) = step(variables, x)
    assert set(after["batch_stats"]["norm"]) == {
        "mean",
        "var",
        "moving_stddev",
        "renorm_mean",
        "renorm_stddev",
    }
    for index in range(2):
        alone = jax.tree.map(lambda value, i=index: value[i], variables)

        def loss(params, alone=alone):
            y, after = Renormed().apply({**alone, "params": params}, x, True, mutable=["batch_stats"])
            return jnp.mean((y - 1.0) ** 2) / 2, (y, after)

        found, (expected, changed) = jax.grad(loss, has_aux=True)(alone["params"])
        agree(y[index], expected)
        agree(jax.tree.map(lambda value, i=index: value[i], (gradients, after)), (found, changed))
