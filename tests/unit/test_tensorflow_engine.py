"""The TensorFlow engine's steps against NumPy's in float64: many small groups, far means, edges, and inference."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from batchnorm._core import fused
from batchnorm._core.engine import Inputs
from batchnorm._core.step import infer, train
from batchnorm._engines import numpy as reference
from batchnorm._engines.tensorflow import compiled, dispatch, engine
from batchnorm.layout import plan_layout
from batchnorm.options import Ghost, Options, Renorm
from tolerances import assert_close, chained
from unit.tensorflow_passes import CASES, CONTIGUOUS, DTYPES, Case, exact, step_inputs, steps

pytestmark = pytest.mark.needs("tensorflow")

FEW = {
    "ghosts": Case((12, 5), (1,), Ghost(4)),
    "contiguous ghosts": Case((12, 5), (1,), Ghost(4, **CONTIGUOUS)),
    "pixels of a few images": Case((6, 3, 4), (1, 2)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("renorm", [None, Renorm()], ids=["plain", "renorm"])
@pytest.mark.parametrize("name", FEW)
def test_many_groups_of_few(name, renorm, dtype, compile_all):
    case = FEW[name]
    arguments = step_inputs(case, dtype)
    options = Options(axes=case.axes, ghost=case.ghost, renorm=renorm)
    got = steps(options, *arguments)
    assert {compiled._deviations, compiled._grad_sums} <= {key[0] for key in compile_all}
    x, gamma, beta, _, dy = map(exact, arguments)
    ones = np.ones_like(gamma)
    state = dict.fromkeys(("moving_mean", "moving_variance", "moving_stddev"), ones)
    state |= {"renorm_mean": 0 * ones, "renorm_stddev": 2 * ones}
    layout = plan_layout(case.shape, case.axes, case.ghost)
    y, batch, pull = reference.pullback(options, layout, Inputs(x, gamma, beta, None, state))
    want = [y, batch.mean, batch.variance, *pull(dy)[:3]]
    for what, value, expected in zip(("y", "mean", "variance", "dx", "dγ", "dβ"), got, want, strict=True):
        assert_close(exact(value), expected, value.dtype, f"{what} of {name}", summands=64)


@pytest.mark.parametrize("gamma", [True, False])
@pytest.mark.parametrize("beta", [True, False])
def test_few_without_gamma_or_beta(gamma, beta, compile_all):
    x, g, b, _, _ = step_inputs(FEW["ghosts"])
    both = [g if gamma else None, b if beta else None]
    layout = plan_layout(x.shape.as_list(), (1,), Ghost(4))
    y, moments, scale = fused.train(engine, x, *both, 1e-3, layout)
    inverse = 1.0 / np.sqrt(exact(moments.variance) + 1e-3)
    assert_close(scale, inverse * exact(g) if gamma else inverse, "float32", "scale")
    want = (exact(x).reshape(4, 3, 5) - exact(moments.mean)) * exact(scale) + (exact(b) if beta else 0.0)
    assert_close(y, want.reshape(12, 5), "float32", "y")


LARGE = {
    "images": Case((4, 64, 64, 8), (3,)),
    "images, channels first": Case((4, 8, 64, 64), (1,)),
    "ghosts": Case((8, 64, 64, 4), (3,), Ghost(4)),
    "few": Case((64, 2048), (1,), Ghost(16)),
}


@pytest.mark.parametrize("mean", [1e4, 1e6])
@pytest.mark.parametrize(
    ("name", "way"),
    [
        *((name, way) for name in LARGE for way in ("native", "compiled", "plain")),
        *(("images", f"weighted {way}") for way in ("native", "compiled")),
    ],
)
def test_large_mean(name, mean, way, monkeypatch, request):
    case = LARGE[name]
    is_native = way.endswith("native")
    request.getfixturevalue("native_ops" if is_native else "no_kernels")
    monkeypatch.setattr(compiled, "_functions", {})
    monkeypatch.setattr(dispatch, "LARGE_INPUT", 10**9 if way == "plain" else 100_000)
    random = np.random.default_rng(2)
    layout = plan_layout(case.shape, case.axes, case.ghost)
    # Numbers that get larger all along, so that no part of them is like the whole.
    drift = np.linspace(-1.0, 1.0, case.shape[0]).reshape(-1, *[1] * (len(case.shape) - 1))
    x = (random.standard_normal(case.shape) + drift + mean).astype(np.float32)
    weights = tf.ones([case.shape[0], *[1] * (len(case.shape) - 1)]) if "weighted" in way else None
    options = Options(axes=case.axes, ghost=case.ghost)
    ones = tf.ones([layout.channels])
    y, _, variance, *_ = steps(options, tf.constant(x), ones, 0.0 * ones, weights, tf.ones_like(x))
    assert bool(compiled._functions) == (way != "plain" and not is_native)
    moments = reference.composed.moments(x.astype(np.float64), None, layout)
    want = reference.composed.apply(
        x.astype(np.float64),
        moments.mean,
        *(value + np.zeros_like(moments.mean) for value in (1 / np.sqrt(moments.variance + 1e-3), 0.0)),
        layout,
    )
    # Chains of additions are bounded however TensorFlow orders them: 1024 rows far apart, and the remainder.
    summands = np.prod(case.shape) // (layout.channels * layout.ghosts)
    assert_close(variance, moments.variance.mean(axis=0), "float32", "variance", within=chained(summands))
    assert_close(y, want, "float32", "y", within=chained(summands))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("way", ["native_ops", "compile_all", "no_kernels"])
@pytest.mark.parametrize(
    "name", ["matrix", "images", "images, channels first", "ghosts", "ghosts of a matrix"]
)
def test_what_is_not_finite_stays_in_its_channel(name, way, bad, request):
    request.getfixturevalue(way)
    case = CASES[name]
    x, *others = step_inputs(case)
    axis = case.axes[0]
    poisoned = np.moveaxis(x.numpy(), axis, -1)
    poisoned[..., 1].flat[0] = bad
    options = Options(axes=case.axes, ghost=case.ghost)
    clean = steps(options, x, *others)
    dirty = steps(options, tf.constant(np.moveaxis(poisoned, -1, axis)), *others)
    np.testing.assert_equal(dirty[1].numpy()[1], np.float32(bad))
    for value, expected in zip(dirty, clean, strict=True):
        at = axis if value.shape.rank > 1 else 0
        assert not np.isfinite(np.take(value, 1, at)).all() or value.shape.rank == 1
        rest = [np.delete(array.numpy(), 1, at) for array in (value, expected)]
        np.testing.assert_allclose(*rest, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("name", ["matrix", "images", "images, channels first", "ghosts", "two axes apart"])
def test_an_empty_batch(name, unknown, either):
    case = CASES[name]._replace(shape=(0, *CASES[name].shape[1:]))
    x, gamma, beta, _, dy = step_inputs(case._replace(ghost=None))
    options = Options(axes=case.axes, ghost=case.ghost)

    def step(x: Any, dy: Any) -> list[Any]:
        return steps(options, x, gamma, beta, None, dy)

    if unknown:
        step = tf.function(
            step, input_signature=[tf.TensorSpec([None, *case.shape[1:]])] * 2, autograph=False
        )
    y, mean, variance, dx, dgamma, dbeta = step(x, dy)
    assert y.shape == dx.shape == case.shape
    for value in (mean, variance):
        assert np.isfinite(value).all()
    for value in (dgamma, dbeta):
        assert_close(value, np.zeros(gamma.shape), "float32", "a gradient")


@pytest.mark.parametrize("way", ["native_ops", "compile_all"])
@pytest.mark.parametrize("name", ["images", "ghosts of a matrix"])
def test_second_derivatives(name, way, request):
    record = request.getfixturevalue(way)
    case = CASES[name]
    x, gamma, beta, _, dy = step_inputs(case, "float64")

    def second(fused: bool | None) -> list[Any]:
        sources = [x, gamma, beta]
        with tf.GradientTape() as outer:
            outer.watch(sources)
            with tf.GradientTape() as inner:
                inner.watch(sources)
                layout = plan_layout(case.shape, case.axes, case.ghost)
                options = Options(axes=case.axes, ghost=case.ghost, fused=fused)
                y, _ = train(engine, options, layout, Inputs(x, gamma, beta, None, {}))
                loss = tf.reduce_sum(tf.sin(y) * dy)
            loss = sum(tf.reduce_sum(g * g) for g in inner.gradient(loss, sources))
        return outer.gradient(loss, sources)

    for value, expected in zip(second(None), second(False), strict=True):
        assert_close(value, expected, "float64", "a second derivative", within=1e-9)
    assert record.used if way == "native_ops" else record


def test_fused_false_compiles_nothing(compile_all):
    steps(Options(axes=(3,), fused=False), *step_inputs(CASES["images"]))
    assert not compile_all


def test_fused_false_uses_no_op(native_ops):
    steps(Options(axes=(3,), fused=False), *step_inputs(CASES["images"]))
    assert not native_ops.used


INFERENCE = {
    "images": (Case((4, 3, 2, 5), (3,)), "FusedBatchNormV3"),
    "volumes": (Case((2, 3, 2, 2, 5), (4,)), "FusedBatchNormV3"),
    "no images": (Case((0, 3, 2, 5), (3,)), "FusedBatchNormV3"),
    "images, channels first": (Case((4, 5, 3, 2), (1,)), "Mul"),
    "matrix": (Case((6, 5), (1,)), "Mul"),
    "two axes": (Case((4, 3, 2, 5), (1, 3)), "Mul"),
}


@pytest.mark.parametrize("with_both", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", INFERENCE)
def test_inference(name, dtype, with_both, compile_all):
    case, operation = INFERENCE[name]
    x, gamma, beta, _, dy = step_inputs(case, dtype)
    if not with_both:
        gamma = beta = None
    stats = "float64" if dtype == "float64" else "float32"
    layout = plan_layout(case.shape, case.axes)
    state = {
        "moving_mean": tf.linspace(tf.constant(-1.0, stats), 2.0, layout.channels),
        "moving_variance": tf.linspace(tf.constant(0.5, stats), 3.0, layout.channels),
    }

    @tf.function(autograph=False)
    def run(x: Any) -> Any:
        return infer(engine, Options(axes=case.axes), layout, Inputs(x, gamma, beta, None, state))

    with tf.GradientTape() as tape:
        tape.watch(x)
        y = run(x)
    dx = tape.gradient(y, x, output_gradients=dy)
    inputs = Inputs(
        *map(exact, (x, gamma, beta)), None, {slot: exact(value) for slot, value in state.items()}
    )
    want = infer(reference.composed, Options(axes=case.axes), layout, inputs)
    assert_close(exact(y), want, dtype, "y")
    channels = [size if axis in case.axes else 1 for axis, size in enumerate(case.shape)]
    scale = (1.0 if gamma is None else exact(gamma)) / np.sqrt(exact(state["moving_variance"]) + 1e-3)
    assert_close(exact(dx), exact(dy) * scale.reshape(channels), dtype, "dx")
    kinds = {node.type for node in run.get_concrete_function(x).graph.get_operations()}
    assert (operation if dtype != "float64" else "Mul") in kinds
    assert not compile_all
    assert not any("Call" in kind for kind in kinds)
