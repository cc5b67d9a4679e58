"""The TensorFlow engine's passes against the composed ones over NumPy in float64, on every way they can take."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from batchnorm._core.engine import GradTerms
from batchnorm._engines import numpy as reference
from batchnorm._engines.tensorflow import compiled, engine, ops
from batchnorm.layout import plan_layout
from tolerances import assert_close
from unit.tensorflow_passes import CASES, DTYPES, Case, exact

pytestmark = [pytest.mark.needs("tensorflow"), pytest.mark.slow(1)]

# Compiling takes a tenth of a second for each pass.
COMPILED = (
    *("long matrix", "images", "images, channels first", "two axes apart", "three axes apart"),
    *("ghosts of a matrix", "ghosts", "ghosts, contiguous", "ghosts, channels first"),
)
WEIGHTS = ("none", "examples", "positions", "channels", "numbers", "one")


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


def passes(of: Any, layout: Any, x: Any, dy: Any, weights: Any, statistics: list[Any]) -> list[Any]:
    """The results of the passes, and the dtype of their statistics."""
    mean, variance, scale, shift, tilt = statistics
    terms = GradTerms(scale, tilt, shift)
    moments = of.moments(x, weights, layout)
    results = [
        *(moments.mean, moments.variance, moments.center + moments.offset),
        *of.grad_sums(dy, x, mean, layout),
        of.apply(x, mean, scale, shift, layout),
        of.grad_input(dy, x, weights, mean, terms, layout),
    ]
    if weights is not None:
        results += [moments.total + mean * 0, moments.effective_count + mean * 0]
        results.append(of.grad_weights(x, weights, mean, shift, variance, terms, layout))
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
    want = passes(reference.composed, layout, *map(exact, (x, dy, weights)), [exact(s) for s in statistics])
    names = (
        "mean",
        "variance",
        "center + offset",
        "Σdy",
        "Σdy·(x − mean)",
        "y",
        "dx",
        "total",
        "count",
        "dw",
    )
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
    assert not compiled._functions


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


def test_shapes_beyond_the_most_are_not_compiled(compile_all, monkeypatch):
    monkeypatch.setattr(compiled, "MOST_FUNCTIONS", 3)
    check(CASES["images"], "positions", "float32")
    check(CASES["ghosts"], "none", "float32")
    assert len(compile_all) == 3
