"""Weights that all channels share, on the CPU kernels: every way in which they come to the elements.

Planes (256 numbers and more in a run) share a piece's weights among channels; short planes repeat a row's weights along
a line of channels; few and short channels have theirs written out. Each against the composed passes in float64.
"""

import ml_dtypes
import numpy as np
import pytest

from batchnorm import Ghost, _kernels
from batchnorm._core.engine import GradTerms
from batchnorm._engines.numpy import composed, engine
from batchnorm.layout import plan_layout
from tolerances import assert_close, dtype_name
from unit.kernel_levels import levels
from unit.whole_moments import whole

pytestmark = pytest.mark.skipif(not _kernels.available(), reason=f"CPU kernels: {_kernels.why_missing()}")

DTYPES = [np.dtype(t) for t in ("float32", "float64", "float16", ml_dtypes.bfloat16)]
# Channels first: examples, channels, height and width.
SHAPES = {
    "planes": (5, 11, 17, 23),
    "planes of several pieces": (2, 3, 70, 131),
    "the longest short plane": (9, 40, 15, 17),
    "short planes": (21, 40, 7, 7),
    "short planes in two parts": (6, 700, 2, 2),
    "short planes of one row": (7, 300, 1, 3),
    "few short planes": (40, 3, 3, 5),
    "one channel": (3, 1, 13, 31),
}


@pytest.fixture(params=levels())
def level(request):
    """Each instruction set that this machine has."""
    module = _kernels.load()
    module.select_instructions(request.param)
    yield request.param
    module.select_instructions(None)


def widened(array):
    return np.asarray(array, np.float64)


def normal(rng, shape, dtype, center=0.0):
    """Normal numbers at an odd place in memory."""
    room = np.empty(int(np.prod(shape)) + 3, dtype)
    room[3:] = rng.normal(center, 1.5, room.size - 3).astype(dtype)
    return room[3:].reshape(shape)


def fractions(rng, layout, dtype):
    """Weights of many sizes, of which a third are zero."""
    weights = np.maximum(rng.normal(0.4, 1.0, layout.weight_shape), 0.0)
    return weights.astype(np.float64 if dtype == np.float64 else np.float32)


def both_moments(x, weights, layout):
    return engine.moments(x, weights, layout), composed.moments(widened(x), widened(weights), layout)


def assert_same_moments(got, want, dtype):
    wanted = whole(want)
    for name, a in whole(got).items():
        b = wanted[name]
        assert_close(np.broadcast_to(a, np.shape(b)), b, dtype, name, summands=100)


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("ghosts", [None, "of one example", "contiguous", "interleaved"])
@pytest.mark.parametrize("case", SHAPES)
def test_weighted_passes_agree_with_float64(level, case, ghosts, dtype):
    rng = np.random.default_rng(1)
    shape, ghost = SHAPES[case], None
    if ghosts == "of one example":
        ghost = Ghost(1)
    elif ghosts is not None:
        shape, ghost = (2 * shape[0], *shape[1:]), Ghost(shape[0], ghosts)
    # Every ghost batch has weights of its own.
    layout = plan_layout(shape, (1,), ghost)
    stat = np.dtype(np.float64 if dtype == np.float64 else np.float32)
    x, dy = normal(rng, shape, dtype, 3.0), normal(rng, shape, dtype)
    weights = fractions(rng, layout, dtype)
    got, want = both_moments(x, weights, layout)
    assert_same_moments(got, want, stat)
    terms = GradTerms(*(rng.normal(size=got.mean.shape).astype(stat) for _ in range(3)))
    dx = engine.grad_input(dy, x, weights, got.mean, terms, layout)
    wide = GradTerms(*map(widened, terms))
    dx64 = composed.grad_input(widened(dy), widened(x), widened(weights), widened(got.mean), wide, layout)
    assert_close(dx, dx64, dtype, "dx")


@pytest.mark.parametrize("center", [1e4, 1e6])
@pytest.mark.parametrize("masked", [0, 1, 70, 3000], ids=lambda n: f"{n} masked")
@pytest.mark.parametrize("shape", [(4, 11, 41, 43), (1, 5, 150, 150), (90, 30, 7, 7), (90, 3, 7, 7)], ids=str)
def test_a_large_mean_keeps_five_digits_behind_a_mask(level, shape, masked, center):
    rng = np.random.default_rng(2)
    layout = plan_layout(shape, (1,))
    x = normal(rng, shape, np.float32, center)
    weights = fractions(rng, layout, x.dtype)
    weights.reshape(-1)[:masked] = 0.0
    # What is masked is far from what counts.
    x[np.broadcast_to(weights, shape) == 0.0] = 0.0
    got, want = both_moments(x, weights, layout)
    np.testing.assert_allclose(got.variance, want.variance, rtol=1e-5)
    np.testing.assert_allclose(got.mean, want.mean, rtol=1e-7)


@pytest.mark.parametrize("shape", [(4, 11, 41, 43), (2, 5, 150, 150)], ids=str)
def test_a_first_value_far_from_the_rest_of_a_plane_keeps_them_too(level, shape):
    rng = np.random.default_rng(7)
    layout = plan_layout(shape, (1,))
    x = normal(rng, shape, np.float32)
    weights = fractions(rng, layout, x.dtype)
    # The masked ones before it are no better.
    weights.reshape(-1)[:5] = 0, 0, 0, 0, 1
    x[0].reshape(shape[1], -1)[:, :5] = 1e3
    got, want = both_moments(x, weights, layout)
    np.testing.assert_allclose(got.variance, want.variance, rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 11, 17, 23), (40, 30, 7, 7), (40, 3, 3, 3)], ids=str)
def test_a_ghost_batch_without_weight_has_mean_and_variance_zero(level, shape):
    rng = np.random.default_rng(3)
    size = shape[0] // 4
    layout = plan_layout(shape, (1,), Ghost(size, "contiguous"))
    x = normal(rng, shape, np.float32, 5.0)
    weights = fractions(rng, layout, x.dtype)
    weights[size : 2 * size] = 0.0
    got, want = both_moments(x, weights, layout)
    assert_same_moments(got, want, np.float32)
    for value in got:
        np.testing.assert_array_equal(np.asarray(value)[1], 0.0)
    none = engine.moments(x, np.zeros_like(weights), layout)
    for value in none:
        np.testing.assert_array_equal(value, 0.0)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("place", [0, 1, -1])
@pytest.mark.parametrize("shape", [(4, 24, 17, 23), (40, 24, 7, 7)], ids=str)
def test_what_is_not_finite_stays_in_its_channel(level, shape, place, value):
    rng = np.random.default_rng(4)
    layout = plan_layout(shape, (1,))
    x = normal(rng, shape, np.float32)
    weights = fractions(rng, layout, x.dtype) + np.float32(0.5)
    x[place, 5, place, place] = value
    got, want = both_moments(x, weights, layout)
    assert np.array_equal(got.mean[0, 5], np.float32(value), equal_nan=True)
    assert np.isnan(got.variance[0, 5])
    for name in ("mean", "variance"):
        rest = [np.delete(getattr(moments, name), 5, axis=1) for moments in (got, want)]
        assert_close(*rest, np.float32, name)


@pytest.mark.parametrize("shape", [(3, 6, 17, 23), (30, 40, 7, 7), (50, 24, 1, 1)], ids=str)
def test_the_effective_count_of_weights_whose_squares_no_float_holds(level, shape):
    layout = plan_layout(shape, (1,))
    x = normal(np.random.default_rng(5), shape, np.float32)
    weights = np.full(layout.weight_shape, 1e-30, np.float32)
    got = engine.moments(x, weights, layout)
    np.testing.assert_allclose(got.effective_count, layout.count, rtol=1e-5)
    weights[:] = 0.0
    weights[-1, 0, -1, -1] = 0.3
    alone = engine.moments(x, weights, layout)
    # Exactly, since the sample variance divides by one less.
    np.testing.assert_array_equal(alone.effective_count, 1.0)
    np.testing.assert_allclose(alone.mean[0], x[-1, :, -1, -1], rtol=1e-6)
    np.testing.assert_array_equal(alone.variance, 0.0)


# Their tiles depend on the threads, or their parts do not; the last has the squares of weights by group.
@pytest.mark.parametrize(
    ("shape", "ghost"),
    [
        ((16, 24, 60, 60), None),
        ((64, 200, 7, 7), None),
        ((2, 3, 300, 301), None),
        ((24, 20, 33, 33), Ghost(8, "contiguous")),
    ],
    ids=str,
)
def test_weighted_numbers_do_not_depend_on_the_threads(shape, ghost):
    rng = np.random.default_rng(6)
    layout = plan_layout(shape, (1,), ghost)
    x = normal(rng, shape, np.float32, 5.0)
    weights = fractions(rng, layout, x.dtype)
    terms = GradTerms(*(rng.normal(size=(layout.ghosts, shape[1])).astype(np.float32) for _ in range(3)))

    def passes(number):
        _kernels.set_threads(number)
        try:
            found = engine.moments(x, weights, layout)
            return [*found, engine.grad_input(x, x, weights, found.mean, terms, layout)]
        finally:
            _kernels.set_threads(None)

    alone = passes(1)
    for number in (2, 3, 16):
        for got, want in zip(passes(number), alone, strict=True):
            np.testing.assert_array_equal(got, want)
