"""The TensorFlow engine's passes against the composed ones over NumPy in float64, on every way they can take."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from batchnorm._core.step import infer, train
from batchnorm._engines import numpy as reference
from batchnorm._engines.protocol import GradTerms, Inputs
from batchnorm._engines.tensorflow import compiled, engine, few, native, ops
from batchnorm._kernels import tensorflow as kernels
from batchnorm.layout import plan_layout
from batchnorm.options import Ghost, Options, Renorm
from tolerances import assert_close


class Case(NamedTuple):
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    ghost: Ghost | None = None


CONTIGUOUS = {"order": "contiguous"}
CASES = {
    "matrix": Case((6, 5), (1,)),
    "matrix, channels first": Case((6, 5), (0,)),
    "vector": Case((7,), (0,)),
    "long matrix": Case((37, 3), (1,)),
    "images": Case((4, 3, 2, 5), (3,)),
    "images, channels first": Case((8, 5, 3, 2), (1,)),
    "one channel": Case((4, 3, 2, 1), (3,)),
    "one pixel": Case((4, 1, 1, 5), (3,)),
    "two axes apart": Case((4, 3, 2, 5), (1, 3)),
    "two axes together": Case((4, 3, 2, 5), (1, 2)),
    "batch axis and channels": Case((4, 3, 2, 5), (0, 3)),
    "every axis": Case((4, 3, 2), (0, 1, 2)),
    "three axes apart": Case((3, 2, 3, 2, 2, 3), (1, 3, 5)),
    "ghosts of a matrix": Case((12, 5), (1,), Ghost(3)),
    "ghosts of a matrix, contiguous": Case((12, 5), (1,), Ghost(3, **CONTIGUOUS)),
    "one ghost": Case((6, 5), (1,), Ghost(6)),
    "ghosts of one": Case((6, 5), (1,), Ghost(1)),
    "ghosts": Case((20, 3, 2, 5), (3,), Ghost(10)),
    "ghosts, contiguous": Case((4, 3, 2, 5), (3,), Ghost(2, **CONTIGUOUS)),
    "ghosts, channels first": Case((12, 5, 3, 7), (1,), Ghost(6)),
    "ghosts, channels first, contiguous": Case((4, 5, 3, 2), (1,), Ghost(2, **CONTIGUOUS)),
    "ghosts, two axes apart": Case((4, 3, 2, 5), (1, 3), Ghost(2)),
    "ghosts, three axes apart": Case((4, 2, 3, 2, 2, 3), (1, 3, 5), Ghost(2)),
}
# Compiling takes a tenth of a second for each pass.
COMPILED = (
    *("long matrix", "images", "images, channels first", "two axes apart", "three axes apart"),
    *("ghosts of a matrix", "ghosts", "ghosts, contiguous", "ghosts, channels first"),
)
WEIGHTS = ("none", "examples", "positions", "channels", "numbers", "one")
DTYPES = ("float32", "float64", "float16", "bfloat16")


class Recorder:
    """The module of ops, and the names of those that were asked of it."""

    def __init__(self) -> None:
        self.used: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.used.append(name.removeprefix("batchnorm_kernels_"))
        return getattr(kernels.load(), name)


@pytest.fixture
def native_ops(monkeypatch):
    """The ops on the CPU kernels, and a record of their use."""
    if kernels.load() is None:
        pytest.skip(kernels.why_missing())
    recorder = Recorder()
    monkeypatch.setattr(native, "load", lambda: recorder)
    return recorder


@pytest.fixture
def no_kernels(monkeypatch):
    """As if the ops had not been built."""
    monkeypatch.setattr(native, "load", lambda: None)


@pytest.fixture(params=["native_ops", "no_kernels"])
def either(request):
    """With the ops, and without."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def compile_all(monkeypatch, no_kernels):
    """Compile for arrays of any size, into an empty cache, which is returned."""
    loops: dict[Any, Any] = {}
    monkeypatch.setattr(compiled, "LEAST_ELEMENTS", 0)
    monkeypatch.setattr(few, "LEAST_ELEMENTS", 0)
    monkeypatch.setattr(compiled, "_kernels", loops)
    return loops


def weight_shape(kind: str, case: Case) -> tuple[int, ...] | None:
    """In the rank of the input, with 1 where the weights repeat."""
    kept = {axis % len(case.shape) for axis in case.axes}
    every = dict(enumerate(case.shape))
    marked = {
        "none": None,
        "examples": {0},
        "positions": set(every) - kept,
        "channels": kept,
        "numbers": set(every),
        "one": set(),
    }[kind]
    return None if marked is None else tuple(size if axis in marked else 1 for axis, size in every.items())


def exact(value: Any) -> Any:
    return None if value is None else tf.cast(value, tf.float64).numpy()


def passes(of: Any, layout: Any, x: Any, dy: Any, weights: Any, statistics: list[Any]) -> list[Any]:
    """The results of the passes, and the dtype of their statistics."""
    mean, variance, scale, shift, tilt = statistics
    terms = GradTerms(scale, tilt, shift)
    moments = of.moments(x, weights, layout)
    results = [
        *(moments.mean, moments.variance),
        *of.grad_sums(dy, x, mean, layout),
        of.apply(x, mean, scale, shift, layout),
        of.grad_input(dy, x, weights, mean, terms, layout),
    ]
    if weights is not None:
        results += [moments.total + mean * 0, moments.effective + mean * 0]
        results.append(of.grad_weights(x, weights, mean, variance, terms, layout))
    return results


def check(case: Case, kind: str, dtype: str, unknown: bool = False) -> None:
    random = np.random.default_rng(0)
    layout = plan_layout(case.shape, case.axes, case.ghost)
    x, dy = (tf.cast(random.normal(mean, 1.5, case.shape), dtype) for mean in (2.0, 0.0))
    stats = "float64" if dtype == "float64" else "float32"
    shape = weight_shape(kind, case)
    weights = None
    if shape is not None:
        weights = tf.constant(random.random(shape) * (random.random(shape) > 0.2) + 0.1, stats)
    groups = (layout.ghosts, layout.channels)
    statistics = [tf.constant(random.normal(0.5, 1.0, groups), stats) for _ in range(5)]

    given = [] if weights is None else [weights]

    def run(x: Any, dy: Any, given: list[Any], statistics: list[Any]) -> list[Any]:
        sizes = ops.shape(x)
        weights = given[0] if given else None
        return passes(engine, plan_layout(sizes, case.axes, case.ghost), x, dy, weights, statistics)

    if unknown:
        blank = tf.TensorSpec([None] * len(case.shape), dtype)
        known = [None if size > 1 else 1 for size in shape or ()]
        specs = [blank, blank, [tf.TensorSpec(known, stats)] * len(given)]
        specs.append([tf.TensorSpec([None, None], stats)] * len(statistics))
        run = tf.function(run, input_signature=specs, autograph=False)
    got = run(x, dy, given, statistics)
    want = passes(reference.engine, layout, *map(exact, (x, dy, weights)), [exact(s) for s in statistics])
    names = ("mean", "variance", "Σdy", "Σdy·(x − mean)", "y", "dx", "total", "count", "dw")
    for name, value, expected in zip(names, got, want, strict=False):
        assert value.dtype.name == (dtype if name in ("y", "dx") else stats), name
        largest = max(1.0, float(np.max(np.abs(expected))))
        assert_close(exact(value), expected, value.dtype, f"{name} of {case}", scale=largest, summands=64)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(kind, "float32") for kind in WEIGHTS]
    + [(kind, dtype) for dtype in DTYPES[1:] for kind in ("none", "positions")],
)
@pytest.mark.parametrize("name", CASES)
def test_plain_passes(name, kind, dtype, no_kernels):
    check(CASES[name], kind, dtype)
    assert not compiled._kernels


PASSES = {"moments", "apply", "grad_sums", "grad_input"}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(kind, "float32") for kind in WEIGHTS]
    + [(kind, dtype) for dtype in DTYPES[1:] for kind in ("none", "positions")],
)
@pytest.mark.parametrize("name", CASES)
def test_native_passes(name, kind, dtype, native_ops):
    case = CASES[name]
    check(case, kind, dtype)
    if plan_layout(case.shape, case.axes, case.ghost).permutation is not None:
        assert not native_ops.used
        return
    # Weights that differ between channels, or along a part of a run, go the other way.
    goes = all(size == 1 for axis, size in enumerate(weight_shape(kind, case) or ()) if axis in case.axes)
    apart = kind != "none" and name in ("ghosts, two axes apart",)
    assert set(native_ops.used) == PASSES - (set() if goes and not apart else {"moments", "grad_input"})


@pytest.mark.parametrize("kind", ["none", "positions"])
@pytest.mark.parametrize("name", CASES)
def test_passes_on_unknown_shapes(name, kind, either):
    check(CASES[name], kind, "float32", unknown=True)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("none", "float32"), ("positions", "float32"), ("none", "bfloat16")]
)
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_passes(name, kind, dtype, compile_all):
    check(CASES[name], kind, dtype)
    assert len(compile_all) == (4 if kind == "none" else 5)


@pytest.mark.parametrize("kind", ["channels", "one"])
def test_compiled_passes_on_odd_weights(kind, compile_all):
    check(CASES["ghosts"], kind, "float64")


def steps(options: Options, x: Any, gamma: Any, beta: Any, weights: Any, dy: Any) -> list[Any]:
    """y, the batch's mean and variance, and the gradients."""
    state = {slot: tf.ones_like(gamma) for slot in ("moving_mean", "moving_variance", "moving_stddev")}
    state |= {"renorm_mean": tf.zeros_like(gamma), "renorm_stddev": 2.0 * tf.ones_like(gamma)}
    sources = [source for source in (x, gamma, beta, weights) if source is not None]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        layout = plan_layout(ops.shape(x), options.axes, options.ghost)
        y, batch = train(engine, options, layout, Inputs(x, gamma, beta, weights, state))
    return [y, batch.mean, batch.variance, *tape.gradient(y, sources, output_gradients=dy)]


def step_inputs(case: Case, dtype: str = "float32") -> list[Any]:
    random = np.random.default_rng(1)
    channels = plan_layout(case.shape, case.axes, case.ghost).channels
    stats = "float64" if dtype == "float64" else "float32"
    x, dy = (tf.cast(random.normal(1.0, 2.0, case.shape), dtype) for _ in range(2))
    gamma, beta = (tf.constant(random.uniform(0.5, 2.0, channels), stats) for _ in range(2))
    return [x, gamma, beta, None, dy]


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
    functions = {key[0] for key in compile_all}
    assert few._sums in functions
    assert (few._moments in functions) == (renorm is None)
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
    y, moments, scale = few.fused_train(x, *both, 1e-3, layout)
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
    monkeypatch.setattr(compiled, "_kernels", {})
    if way == "plain":
        monkeypatch.setattr(compiled, "LEAST_ELEMENTS", 10**9)
    random = np.random.default_rng(2)
    layout = plan_layout(case.shape, case.axes, case.ghost)
    # Numbers that get larger all along, so that no part of them is like the whole.
    drift = np.linspace(-1.0, 1.0, case.shape[0]).reshape(-1, *[1] * (len(case.shape) - 1))
    x = (random.standard_normal(case.shape) + drift + mean).astype(np.float32)
    weights = tf.ones([case.shape[0], *[1] * (len(case.shape) - 1)]) if "weighted" in way else None
    options = Options(axes=case.axes, ghost=case.ghost)
    ones = tf.ones([layout.channels])
    y, _, variance, *_ = steps(options, tf.constant(x), ones, 0.0 * ones, weights, tf.ones_like(x))
    assert bool(compiled._kernels) == (way != "plain" and not is_native)
    moments = reference.engine.moments(x.astype(np.float64), None, layout)
    want = reference.engine.apply(
        x.astype(np.float64),
        moments.mean,
        *(value + np.zeros_like(moments.mean) for value in (1 / np.sqrt(moments.variance + 1e-3), 0.0)),
        layout,
    )
    np.testing.assert_allclose(variance, moments.variance.mean(axis=0), rtol=1e-5)
    # A float32 mean can be off by half a unit in its last place, and so can each output, over the deviation.
    deviation = np.sqrt(moments.variance.min())
    assert (
        np.abs(y - want).max() <= 0.75 * np.spacing(np.float32(mean)) / deviation + 1e-5 * np.abs(want).max()
    )


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


def test_shapes_beyond_the_most_are_not_compiled(compile_all, monkeypatch):
    monkeypatch.setattr(compiled, "MOST_KERNELS", 3)
    check(CASES["images"], "positions", "float32")
    check(CASES["ghosts"], "none", "float32")
    assert len(compile_all) == 3


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
    want = infer(reference.engine, Options(axes=case.axes), layout, inputs)
    assert_close(exact(y), want, dtype, "y")
    channels = [size if axis in case.axes else 1 for axis, size in enumerate(case.shape)]
    scale = (1.0 if gamma is None else exact(gamma)) / np.sqrt(exact(state["moving_variance"]) + 1e-3)
    assert_close(exact(dx), exact(dy) * scale.reshape(channels), dtype, "dx")
    kinds = {node.type for node in run.get_concrete_function(x).graph.get_operations()}
    assert (operation if dtype != "float64" else "Mul") in kinds
    assert not compile_all
    assert not any("Call" in kind for kind in kinds)
