"""Run by `test_jax_engine`: on four devices, each way to spread a batch gives the whole batch's numbers."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import batchnorm
from batchnorm import Clip, Ghost, Options, Renorm
from batchnorm._engines.jax import Grouped

jax.config.update("jax_enable_x64", True)
WHOLE, SPREAD = PartitionSpec(), PartitionSpec("devices")
random = np.random.RandomState(0)
x, dy = (jnp.asarray(random.randn(8, 3) + offset) for offset in (2.0, 0.0))
weights = jnp.asarray([1.0, 0, 0, 0, 2, 0.5, 1, 1]).reshape(8, 1)
params = {"gamma": jnp.asarray(random.rand(3)), "beta": jnp.asarray(random.rand(3))}
_, state = batchnorm.init(Options(), x.shape, like=x)
EACH, TOGETHER = Options(), Options(synchronized=True)


def loss(x, params, weights, dy, options=EACH, axis_name=None):
    y, after = batchnorm.batch_norm(
        x, params, state, options, training=True, weights=weights, axis_name=axis_name
    )
    return jnp.sum(y * dy), after


def agree(name: str, got, want) -> None:
    for mine, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-12, atol=1e-12, err_msg=name)
    print(name)


gradient = jax.grad(loss, (0, 1, 2), has_aux=True)
expected = jax.jit(gradient)(x, params, weights, dy)


def sharded(kind: AxisType) -> None:
    mesh = jax.make_mesh((4,), ("devices",), axis_types=(kind,))
    placed = [jax.device_put(value, NamedSharding(mesh, SPREAD)) for value in (x, weights, dy)]
    got = jax.jit(gradient)(placed[0], params, *placed[1:])
    assert got[0][0].sharding.spec[0] == "devices"
    agree("sharded-jit" if kind == AxisType.Auto else "explicit-sharding", got, expected)


sharded(AxisType.Auto)
sharded(AxisType.Explicit)
mesh = jax.make_mesh((4,), ("devices",), axis_types=(AxisType.Auto,))
IN = (SPREAD, WHOLE, SPREAD, SPREAD)


def outside(checked: bool):
    def one(x, params, weights, dy):
        value, after = loss(x, params, weights, dy, TOGETHER, "devices")
        return jax.lax.psum(value, "devices"), after

    mapped = jax.shard_map(one, mesh=mesh, in_specs=IN, out_specs=(WHOLE, WHOLE), check_vma=checked)
    return jax.jit(jax.grad(mapped, (0, 1, 2), has_aux=True))(x, params, weights, dy)


agree("shard_map", outside(True), expected)
agree("shard_map-unchecked", outside(False), expected)


def inside(x, params, weights, dy):
    return jax.grad(loss, (0, 1, 2), has_aux=True)(x, params, weights, dy, TOGETHER, "devices")


out = ((SPREAD, WHOLE, SPREAD), WHOLE)
agree(
    "gradient-inside",
    jax.jit(jax.shard_map(inside, mesh=mesh, in_specs=IN, out_specs=out))(x, params, weights, dy),
    expected,
)


def on_device(x, params, weights, dy):
    (dx, dparams, dweights), after = inside(x, params, weights, dy)
    return (dx, jax.lax.psum(dparams, "devices"), dweights), after


split = [value.reshape(4, 2, -1) for value in (x, weights, dy)]
(dx, dparams, dweights), after = jax.pmap(on_device, axis_name="devices", in_axes=(0, None, 0, 0))(
    split[0], params, *split[1:]
)
first = jax.tree.map(lambda value: value[0], (dparams, after))
agree("pmap", ((dx.reshape(8, 3), first[0], dweights.reshape(8, 1)), first[1]), expected)

# Two valid rows on one device and eight on another: the mean of ten rows.
rows, valid = jnp.asarray(random.randn(16, 3) + 5), jnp.arange(16) >= 6
pair = jax.make_mesh((2,), ("devices",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])


def statistics(rows, valid):
    return loss(rows, params, valid, 1.0, Options(decay=0.0, synchronized=True), "devices")[1]


spread = jax.shard_map(statistics, mesh=pair, in_specs=(SPREAD, SPREAD), out_specs=WHOLE)
found = jax.jit(spread)(rows, valid)
ten = rows[6:]
assert len(ten) == 10
agree("two-and-eight", (found["moving_mean"], found["moving_variance"]), (ten.mean(0), ten.var(0)))

groups = Grouped("devices", ((0, 1), (2, 3)))
_, after = jax.pmap(
    lambda x, dy: loss(x, params, None, dy, Options(decay=0.0, synchronized=True), groups),
    axis_name="devices",
)(split[0], split[2])
means = [x[:4].mean(0)] * 2 + [x[4:].mean(0)] * 2
agree("groups", after["moving_mean"], jnp.stack(means))

square = jax.make_mesh((2, 2), ("rows", "columns"), axis_types=(AxisType.Auto,) * 2)
both = PartitionSpec(("rows", "columns"))
over_both = jax.shard_map(
    lambda x, weights: loss(x, params, weights, 1.0, TOGETHER, ("rows", "columns"))[1],
    mesh=square,
    in_specs=(both, both),
    out_specs=WHOLE,
)
agree("two-axes", jax.jit(over_both)(x, weights), expected[1])


# Types that name the sharding of batches, channels and parameters: the numbers of one device, sharded like the inputs.
explicit = jax.make_mesh((2, 2), ("rows", "columns"), axis_types=(AxisType.Explicit,) * 2)
RENORM = Renorm(Clip(0.7, 1.3, 0.5))
# Options, the shape of x, the mesh axes that each axis of x is sharded over, and the shape of the weights.
EXPLICIT = {
    "channels": (Options(), (8, 4), (None, "columns"), (8, 1)),
    "positions": (Options((1,)), (8, 4, 2, 6), ("rows", None, "columns"), (8, 1, 2, 6)),
    "ghosts": (Options(ghost=Ghost(2), renorm=RENORM), (8, 2, 4), ("rows", "columns"), None),
    "contiguous": (Options((1,), ghost=Ghost(4, "contiguous")), (8, 4, 2), ("rows", "columns"), (8, 1, 1)),
    "apart": (Options((1, 3), debias_mean=True), (4, 2, 3, 4), ("rows", None, None, "columns"), (4, 2, 3, 4)),
    "plain": (Options(fused=False), (8, 2, 4), (("rows", "columns"),), (8, 2, 1)),
}
for name, (options, shape, spread, weight_shape) in EXPLICIT.items():
    x, dy = (jnp.asarray(random.randn(*shape)) for _ in range(2))
    weights = None if weight_shape is None else jnp.asarray(random.rand(*weight_shape) + 0.2)
    params, state = batchnorm.init(options, shape, like=x)
    params = {key: value + jnp.asarray(random.rand(*value.shape)) for key, value in params.items()}

    def everything(x, params, weights, dy, state, options=options):
        def loss(x, params, weights):
            y, after = batchnorm.batch_norm(x, params, state, options, training=True, weights=weights)
            return jnp.sum(jnp.sin(y) * dy), (y, after)

        found = jax.grad(loss, (0, 1) if weights is None else (0, 1, 2), has_aux=True)(x, params, weights)
        return *found, batchnorm.batch_norm(x, params, state, options, training=False)[0]

    expected = jax.jit(everything)(x, params, weights, dy, state)
    kept = spread[options.axes[0] % len(shape)] if len(spread) > options.axes[0] % len(shape) else None

    def place(value, axes):
        axes = [axis if size > 1 else None for axis, size in zip(axes, value.shape, strict=False)]
        return jax.device_put(value, NamedSharding(explicit, PartitionSpec(*axes)))

    for channels in {None, kept if len(options.axes) == 1 else None}:
        placed = [place(x, spread), {key: place(value, (channels,)) for key, value in params.items()}]
        placed += [weights if weights is None else place(weights, spread), place(dy, spread)]
        placed += [{key: place(value, (channels,)) for key, value in state.items()}]
        got = jax.jit(everything)(*placed)
        (dx, dparams, *_), (y, after), z = got
        for value, source in ((dx, placed[0]), (y, placed[0]), (z, placed[0])):
            assert value.sharding.is_equivalent_to(source.sharding, len(shape)), name
        for values, sources in ((dparams, placed[1]), (after, placed[4])):
            for key, value in values.items():
                assert value.sharding.is_equivalent_to(sources[key].sharding, value.ndim), (name, key)
        for mine, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-12, atol=1e-12, err_msg=name)
    print(f"explicit-{name}")
    if name == "ghosts":
        with jax.set_mesh(explicit):
            agree("explicit-eager", everything(*placed), expected)
