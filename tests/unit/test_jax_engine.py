"""The JAX engine under JAX's transformations, through the public function."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import batchnorm
from batchnorm import Clip, Ghost, Options, Renorm
from tolerances import assert_close

pytestmark = [pytest.mark.needs("jax"), pytest.mark.slow(1)]

# r and d are constants of the gradient, which slopes of y would not show. Bounds that hold them make them constants.
HELD = Renorm(Clip(rmin=1.2, rmax=1.2, dmax=0.01))
OPTIONS = {
    "plain": Options((-1,)),
    "composed": Options((-1,), fused=False),
    "channels first": Options((1,)),
    "two axes": Options((0, 2)),
    "no affine": Options((-1,), with_gamma=False, with_beta=False),
    "interleaved": Options((-1,), ghost=Ghost(3)),
    "contiguous": Options((1,), ghost=Ghost(2, "contiguous")),
    "renorm": Options((-1,), renorm=HELD),
    "renorm and ghosts": Options((-1,), renorm=HELD, ghost=Ghost(3)),
}
# What XLA does by default, as in a user's program; tests/conftest.py asks for less.
OPTIMIZED = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_use_fusion_emitters": True,
}
WEIGHTS = {"none": None, "examples": (6, 1, 1), "numbers": (6, 2, 3)}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def arrays(shape=(6, 2, 3), dtype="float64", offset=1.0):
    random = np.random.RandomState(0)
    return jnp.asarray(random.randn(*shape) + offset, dtype), jnp.asarray(random.randn(*shape), dtype)


def started(options: Options, x):
    """Parameters other than ones and zeros, and the first state."""
    params, state = batchnorm.init(options, x.shape, like=x)
    random = np.random.RandomState(1)
    return {name: value + jnp.asarray(random.rand(*value.shape)) for name, value in params.items()}, state


@pytest.mark.parametrize(
    ("name", "weighted"),
    [
        *(("plain", "none"), ("plain", "examples"), ("composed", "numbers"), ("channels first", "none")),
        *(
            ("two axes", "numbers"),
            ("no affine", "none"),
            ("interleaved", "examples"),
            ("contiguous", "none"),
        ),
        *(("renorm", "none"), ("renorm and ghosts", "examples")),
    ],
)
def test_first_and_second_derivatives_are_slopes(x64, name: str, weighted: str) -> None:
    options, (x, dy) = OPTIONS[name], arrays()
    params, state = started(options, x)
    shape = WEIGHTS[weighted]
    weights = None if shape is None else jnp.asarray(np.random.RandomState(2).rand(*shape) + 0.2)

    @jax.jit
    def loss(x, params, weights):
        y, _ = batchnorm.batch_norm(x, params, state, options, training=True, weights=weights)
        return jnp.sum(jnp.sin(y) * dy)

    check_grads(loss, (x, params, weights), order=2, modes=("rev",), rtol=1e-5, atol=1e-5)
    check_grads(loss, (x, params, weights), order=1, modes=("fwd",), rtol=1e-5, atol=1e-5)


def test_hessian_and_third_derivative_run_forward(x64) -> None:
    options, (x, dy) = Options((-1,)), arrays((4, 2))
    params, state = started(options, x)

    def loss(x):
        return jnp.sum(batchnorm.batch_norm(x, params, state, options, training=True)[0] ** 3)

    hessian = jax.jit(jax.hessian(loss))(x)
    assert_close(hessian, jax.jit(jax.jacrev(jax.grad(loss)))(x), "float64", "hessian")
    assert_close(hessian, np.transpose(hessian, (2, 3, 0, 1)), "float64", "symmetry")

    def along(function):
        return lambda x: jax.jvp(function, (x,), (dy,))[1]

    step = 1e-5
    above, below = (jax.jit(along(along(loss)))(x + sign * step * dy) for sign in (1, -1))
    assert_close(
        jax.jit(along(along(along(loss))))(x), (above - below) / (2 * step), "float64", "third", within=1e-6
    )


def test_no_gradient_reaches_the_state_or_comes_from_it() -> None:
    options, (x, _) = Options((-1,), renorm=Renorm()), arrays(dtype="float32")
    params, state = started(options, x)

    def of_input(x, state):
        _, after = batchnorm.batch_norm(x, params, state, options, training=True)
        return sum(jnp.sum(after[name]) for name in ("renorm_mean", "renorm_stddev"))

    assert not jnp.any(jax.grad(of_input)(x, state))
    for value in jax.tree.leaves(
        jax.grad(lambda s: jnp.sum(batchnorm.batch_norm(x, params, s, options, training=True)[0] ** 2))(state)
    ):
        assert not jnp.any(value)


def test_scan_remat_vmap_and_eval_shape(x64) -> None:
    options, (x, dy) = Options((-1,), decay=0.5), arrays((4, 3))
    params, state = started(options, x)
    batches = jnp.stack([x, 2 * x + 1, dy])

    def steps(batches, apply):
        def one(state, batch):
            y, state = apply(batch, params, state)
            return state, jnp.sum(y**3)

        after, losses = jax.lax.scan(one, state, batches)
        return jnp.sum(losses), after

    def apply(x, params, state):
        return batchnorm.batch_norm(x, params, state, options, training=True)

    def by_hand(batches):
        total, current = 0.0, state
        for batch in batches:
            y, current = apply(batch, params, current)
            total += jnp.sum(y**3)
        return total, current

    expected, after = jax.grad(by_hand, has_aux=True)(batches)
    for name, function in {"scan": apply, "remat": jax.checkpoint(apply)}.items():
        found, states = jax.jit(jax.grad(lambda b, f=function: steps(b, f), has_aux=True))(batches)
        assert_close(found, expected, "float64", name)
        assert_close(states["moving_mean"], after["moving_mean"], "float64", name)
    ys, states = jax.vmap(lambda x: apply(x, params, state))(batches)
    for index, batch in enumerate(batches):
        y, single = apply(batch, params, state)
        assert_close(ys[index], y, "float64", "vmap")
        assert_close(states["moving_variance"][index], single["moving_variance"], "float64", "vmap")
    shaped, _ = jax.eval_shape(lambda x: apply(x, params, state), x)
    assert (shaped.shape, shaped.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize(
    "transform", [jax.jit, lambda f: jax.vmap(f, in_axes=(None, 0))], ids=["jit", "vmap"]
)
def test_decay_and_bounds_may_be_traced(transform) -> None:
    """A schedule inside a compiled step."""
    x, _ = arrays(dtype="float32", offset=3.0)
    params, state = started(Options((-1,), renorm=Renorm()), x)

    def step(x, bound):
        renorm = Renorm(Clip(1 / bound, bound, bound - 1), decay=1 - 0.1 / bound)
        options = Options((-1,), decay=1 - 0.5 / bound, renorm=renorm)

        def loss(x):
            y, after = batchnorm.batch_norm(x, params, state, options, training=True)
            return jnp.sum(y**2), (y, after)

        return jax.grad(loss, has_aux=True)(x)

    bounds = jnp.array([1.5, 2.0], jnp.float32)
    many = transform is not jax.jit
    found = transform(step)(x, bounds if many else bounds[1])
    expected = step(x, 2.0)
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(got[1] if many else got, want, "float32", "traced bounds")


def test_bounds_and_decays_may_be_differentiated() -> None:
    """r and d are constants of the gradient, so bounds have none; a decay has that of the state it makes."""
    x, _ = arrays(dtype="float32", offset=3.0)
    params, state = started(Options((-1,), renorm=Renorm()), x)

    def loss(bound, decay):
        options = Options((-1,), decay=decay, renorm=Renorm(Clip(1 / bound, bound, bound - 1), decay))
        y, after = batchnorm.batch_norm(x, params, state, options, training=True)
        return jnp.sum(y**2) + jnp.sum(after["moving_mean"])

    slopes = jax.jit(jax.grad(loss, (0, 1)))(1.5, 0.9)
    assert_close(slopes[0], 0.0, "float32", "bound")
    assert_close(slopes[1], jnp.sum(state["moving_mean"] - jnp.mean(x, (0, 1))), "float32", "decay")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_between_the_passes_only_the_input_is_kept(dtype: str) -> None:
    """In its own dtype, and not in products with each statistic."""
    options, (x, _) = Options((-1,)), arrays((64, 8), dtype)
    params, state = started(options, x)
    _, pull = jax.vjp(lambda x: batchnorm.batch_norm(x, params, state, options, training=True)[0], x)
    large = [leaf for leaf in jax.tree.leaves(pull) if getattr(leaf, "size", 0) >= x.size]
    assert [(leaf.shape, str(leaf.dtype)) for leaf in large] == [(x.shape, dtype)]


def test_dtypes_without_double_precision() -> None:
    options = Options((-1,))
    for given in ("float32", "bfloat16", "float64"):
        x = jnp.asarray(np.ones((4, 3)), given if given != "float64" else None)
        params, state = batchnorm.init(options, x.shape, like=x)
        y, state = batchnorm.batch_norm(x, params, state, options, training=True)
        assert y.dtype == x.dtype
        assert {str(value.dtype) for value in (*params.values(), *state.values())} == {"float32"}


@pytest.mark.parametrize("offset", [1e4, 1e6])
@pytest.mark.parametrize("mode", ["eager", "jit"])
@pytest.mark.parametrize(
    ("shape", "axis"), [((40_000, 8), -1), ((16, 50, 50, 8), -1), ((16, 8, 50, 50), 1)], ids=str
)
def test_a_large_mean_keeps_its_digits(shape, axis: int, mode: str, offset: float) -> None:
    options = Options((axis,), decay=0.0)
    x = np.random.RandomState(0).randn(*shape).astype(np.float32) + np.float32(offset)
    params, state = batchnorm.init(options, shape, like=jnp.asarray(x))

    def step(x):
        return batchnorm.batch_norm(x, params, state, options, training=True)[1]

    after = (jax.jit(step, compiler_options=OPTIMIZED) if mode == "jit" else step)(jnp.asarray(x))
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    exact = x.astype(np.float64)
    assert_close(after["moving_variance"], exact.var(others), "float32", "variance", within=1e-4)
    assert_close(after["moving_mean"], exact.mean(others), "float32", "mean", within=2e-7)


def test_an_exported_function_takes_any_batch_size() -> None:
    export = pytest.importorskip("jax.export")
    for options in (Options((-1,)), Options((-1,), ghost=Ghost(2), renorm=Renorm())):
        x, _ = arrays(dtype="float32")
        params, state = started(options, x)

        def step(x, options=options, params=params, state=state):
            return batchnorm.batch_norm(x, params, state, options, training=True)

        (half,) = export.symbolic_shape("half")
        exported = export.export(jax.jit(step))(jax.ShapeDtypeStruct((2 * half, 2, 3), jnp.float32))
        for size in (2, 6):
            got, want = exported.call(x[:size]), step(x[:size])
            assert_close(got[0], want[0], "float32", "y")
            assert_close(got[1]["moving_variance"], want[1]["moving_variance"], "float32", "variance")


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_mapped_replicas_are_one_batch(x64, weighted: bool) -> None:
    """Inside `vmap` with an axis name, with the gradients of the whole computation."""
    options, (x, dy) = Options((-1,)), arrays((8, 3))
    params, state = started(options, x)
    weights = jnp.asarray([1.0, 0, 0, 0, 2, 0.5, 1, 1]).reshape(8, 1) if weighted else None

    def whole(x, params, weights):
        y, after = batchnorm.batch_norm(x, params, state, options, training=True, weights=weights)
        return jnp.sum(y * dy), after

    def parts(x, params, weights):
        together = replace(options, synchronized=True)

        def one(x, dy, weights):
            y, after = batchnorm.batch_norm(
                x, params, state, together, training=True, weights=weights, axis_name="replicas"
            )
            return jnp.sum(y * dy), after

        split = jax.tree.map(lambda a: a.reshape(4, 2, -1), (x, dy, weights))
        losses, after = jax.vmap(one, axis_name="replicas")(*split)
        return jnp.sum(losses), jax.tree.map(lambda a: a[0], after)

    wrt = (0, 1, 2) if weighted else (0, 1)
    expected, got = (jax.grad(f, wrt, has_aux=True)(x, params, weights) for f in (whole, parts))
    for mine, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert_close(mine, other, "float64", "replicas")


def test_devices_are_one_batch() -> None:
    """Sharded `jit`, `shard_map` and `pmap` on four devices, which are set at the start of a process."""
    program = Path(__file__).parents[1] / "programs" / "jax_devices.py"
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [
        *("sharded-jit", "explicit-sharding", "shard_map", "shard_map-unchecked", "gradient-inside", "pmap"),
        *("two-and-eight", "groups", "two-axes"),
        *(
            "explicit-channels",
            "explicit-positions",
            "explicit-ghosts",
            "explicit-eager",
            "explicit-contiguous",
        ),
        *("explicit-apart", "explicit-plain"),
    ]


def test_sums_of_wide_ghost_batches_come_in_pieces(x64) -> None:
    """More columns than one sum takes on a CPU, the last piece shorter: the same numbers, and gradients of them."""
    options, (x, dy) = Options((-1,), ghost=Ghost(2)), arrays((12, 3000), "float64")
    params, state = started(options, x)

    def step(x, dy, options):
        y, after = batchnorm.batch_norm(x, params, state, options, training=True)
        return jnp.sum(y * dy), (y, after["moving_variance"])

    # Example i is in group i mod 6.
    order = jnp.arange(12).reshape(2, 6).T.reshape(-1)
    dx, (y, variance) = jax.grad(step, has_aux=True)(x, dy, options)
    beside = replace(options, ghost=Ghost(2, "contiguous"))
    expected, (expected_y, expected_variance) = jax.grad(step, has_aux=True)(x[order], dy[order], beside)
    assert_close(y[order], expected_y, "float64", "y")
    assert_close(dx[order], expected, "float64", "dx")
    assert_close(variance, expected_variance, "float64", "variance")
