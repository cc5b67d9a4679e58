"""The NumPy engine on the CPU kernels against the composed passes in float64."""

import multiprocessing
import threading

import ml_dtypes
import numpy as np
import pytest

from batchnorm import Ghost, Options, _kernels
from batchnorm._core.engine import GradTerms, Inputs
from batchnorm._engines.numpy import composed, engine, pullback
from batchnorm.layout import plan_layout
from tolerances import assert_close, dtype_name
from unit.kernel_levels import levels
from unit.whole_moments import whole

pytestmark = pytest.mark.skipif(not _kernels.available(), reason=f"CPU kernels: {_kernels.why_missing()}")

DTYPES = [np.dtype(t) for t in ("float32", "float64", "float16", ml_dtypes.bfloat16)]
# Shape, channel axes, ghost batches: every kind of layout, with sizes that leave tails.
LAYOUTS = {
    "channels last": ((6, 5, 7, 13), (3,), None),
    "channels first": ((6, 13, 5, 7), (1,), None),
    "channels first, large planes": ((3, 5, 23, 29), (1,), None),
    "one channel": ((6, 5, 7, 1), (3,), None),
    "few channels": ((40, 9, 3), (2,), None),
    "many channels": ((6, 2500), (1,), None),
    "interleaved": ((6, 5, 7, 13), (3,), Ghost(2)),
    "contiguous": ((6, 5, 7, 13), (3,), Ghost(2, "contiguous")),
    "interleaved, channels first": ((6, 13, 5, 7), (1,), Ghost(3)),
    "contiguous, channels first": ((6, 13, 17, 17), (1,), Ghost(3, "contiguous")),
    "interleaved rows": ((8, 21), (1,), Ghost(4)),
    "two axes": ((6, 5, 7, 13), (1, 3), None),
    "two axes and ghosts": ((6, 5, 7, 13), (1, 3), Ghost(2)),
    "permuted": ((6, 5, 4, 3), (1, 3), Ghost(2, "contiguous")),
    "empty": ((0, 5, 3), (2,), None),
}


@pytest.fixture(params=levels())
def level(request):
    """Each instruction set that this machine has."""
    module = _kernels.load()
    module.select_instructions(request.param)
    yield request.param
    module.select_instructions(None)


def normal(rng, shape, dtype, center=0.0):
    """Normal numbers at an odd place in memory."""
    room = np.empty(int(np.prod(shape)) + 3, dtype)
    room[3:] = rng.normal(center, 1.5, room.size - 3).astype(dtype)
    return room[3:].reshape(shape)


def widened(array):
    return None if array is None else np.asarray(array, np.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("case", LAYOUTS)
def test_one_call_forms_agree_with_float64(level, case, dtype):
    check_one_call_forms(*LAYOUTS[case], dtype)


# As many numbers as are written past the caches, whole lines at a time: rows and planes begin anywhere in one.
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("shape", [(65, 77, 21, 21), (7, 5, 251, 251), (2201, 1003)])
def test_large_outputs_agree_with_float64(level, shape, dtype):
    assert np.prod(shape) * dtype.itemsize >= 4 << 20
    check_one_call_forms(shape, (1,), None, dtype)


def check_one_call_forms(shape, axes, ghost, dtype):
    rng = np.random.default_rng(3)
    layout = plan_layout(shape, axes, ghost)
    stat = np.dtype(np.float32) if dtype.itemsize == 2 else dtype
    x, dy = normal(rng, shape, dtype, 3.0), normal(rng, shape, dtype)
    gamma, beta = (rng.normal(size=layout.channels).astype(stat) for _ in range(2))
    options = Options(axes=axes, ghost=ghost, epsilon=0.1)
    y, batch, pull = pullback(options, layout, Inputs(x, gamma, beta, None, {}), engine)
    wide = Inputs(widened(x), widened(gamma), widened(beta), None, {})
    y64, batch64, pull64 = pullback(options, layout, wide)
    assert y.dtype == dtype
    assert_close(y, y64, dtype, "y")
    assert_close(batch.mean, batch64.mean, stat, "mean")
    assert_close(batch.variance, batch64.variance, stat, "variance")
    for name, got, want in zip(("dx", "dgamma", "dbeta"), pull(dy), pull64(widened(dy)), strict=False):
        assert_close(got, want, dtype if name == "dx" else stat, name, summands=x.size)


@pytest.mark.parametrize("case", LAYOUTS)
@pytest.mark.parametrize("along", ["positions", "examples"])
def test_weighted_passes_agree_with_float64(level, case, along):
    rng = np.random.default_rng(4)
    shape, axes, ghost = LAYOUTS[case]
    layout = plan_layout(shape, axes, ghost)
    spread = layout.weight_shape if along == "positions" else (shape[0], *(1 for _ in shape[1:]))
    weights = np.maximum(rng.normal(0.4, 1.0, spread), 0.0).astype(np.float32)
    x, dy = normal(rng, shape, np.float32, 100.0), normal(rng, shape, np.float32)
    # Padding far from the data: it must not spoil the digits of what counts.
    x[np.broadcast_to(weights, shape) == 0.0] = -1e4
    got, want = (
        e.moments(v, w, layout)
        for e, v, w in ((engine, x, weights), (composed, widened(x), widened(weights)))
    )
    wanted = whole(want)
    for name, a in whole(got).items():
        b = wanted[name]
        assert_close(np.broadcast_to(a, np.shape(b)), b, np.float32, name, summands=100)
    terms = GradTerms(*(rng.normal(size=got.mean.shape).astype(np.float32) for _ in range(3)))
    dx = engine.grad_input(dy, x, weights, got.mean, terms, layout)
    wide = GradTerms(*map(widened, terms))
    dx64 = composed.grad_input(widened(dy), widened(x), widened(weights), widened(got.mean), wide, layout)
    assert_close(dx, dx64, np.float32, "dx")


@pytest.mark.parametrize("center", [1e4, 1e6])
@pytest.mark.parametrize("shape", [(5000, 24), (2000, 9, 24), (3, 24, 90, 90)])
def test_a_large_mean_keeps_five_digits_of_the_variance(level, center, shape):
    x = normal(np.random.default_rng(5), shape, np.float32, center)
    axes = (1,) if len(shape) == 4 else (len(shape) - 1,)
    layout = plan_layout(shape, axes)
    got, want = engine.moments(x, None, layout), composed.moments(widened(x), None, layout)
    np.testing.assert_allclose(got.variance, want.variance, rtol=1e-5)
    np.testing.assert_allclose(got.mean, want.mean, rtol=1e-7)


def test_a_first_value_far_from_the_rest_keeps_them_too(level):
    x = normal(np.random.default_rng(6), (4000, 20), np.float32)
    x[0] = 1e3
    layout = plan_layout(x.shape, (1,))
    want = composed.moments(widened(x), None, layout).variance
    np.testing.assert_allclose(engine.moments(x, None, layout).variance, want, rtol=1e-5)


@pytest.mark.parametrize("shape", [(700, 24), (40, 24, 7), (4, 24, 300)])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("place", [0, 1, -1])
def test_what_is_not_finite_stays_in_its_channel(level, shape, value, place):
    x = normal(np.random.default_rng(7), shape, np.float32)
    x[(place, 5) if len(shape) == 2 else (place, 5, place)] = value
    layout = plan_layout(shape, (1,))
    y, moments, _ = engine.fused_train(x, None, None, 1e-3, layout)
    assert np.array_equal(moments.mean[0, 5], np.float32(value), equal_nan=True)
    assert np.isnan(moments.variance[0, 5])
    assert np.isnan(y[:, 5]).all()
    rest = np.delete(x, 5, axis=1)
    alone, _, _ = engine.fused_train(rest, None, None, 1e-3, plan_layout(rest.shape, (1,)))
    assert_close(np.delete(y, 5, axis=1), alone, np.float32, "other channels")


def test_gaps_are_copied_and_odd_types_composed():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(9, 8, 6)).astype(np.float32)[::2, :, ::-1]
    layout = plan_layout(x.shape, (2,))
    assert_close(
        engine.moments(x, None, layout).mean, x.astype(np.float64).mean((0, 1))[None], np.float32, "mean"
    )
    swapped = x.astype(">f4")
    assert engine.fused_train(swapped, None, None, 1e-3, layout) is None
    assert_close(
        engine.moments(swapped, None, layout).mean, engine.moments(x, None, layout).mean, np.float32, "mean"
    )


def test_weights_by_channel_are_composed():
    rng = np.random.default_rng(9)
    x, weights = rng.normal(size=(9, 6)), rng.random((9, 6))
    layout = plan_layout(x.shape, (1,))
    for got, want in zip(
        engine.moments(x, weights, layout), composed.moments(x, weights, layout), strict=True
    ):
        np.testing.assert_array_equal(got, want)


LARGE = [((60000, 33), (1,), None), ((16, 24, 60, 60), (1,), None), ((32, 2000, 17), (2,), Ghost(4))]


def both_passes(shape, axes, ghost, number):
    layout = plan_layout(shape, axes, ghost)
    _kernels.set_threads(number)
    try:
        x = normal(np.random.default_rng(10), shape, np.float32, 5.0)
        options = Options(axes=axes, ghost=ghost)
        y, _, pull = pullback(options, layout, Inputs(x, None, None, None, {}), engine)
        return y, pull(x).x
    finally:
        _kernels.set_threads(None)


@pytest.mark.parametrize("case", LARGE, ids=str)
def test_numbers_do_not_depend_on_the_threads(case):
    alone = both_passes(*case, 1)
    for number in (2, 3):
        for got, want in zip(both_passes(*case, number), alone, strict=True):
            np.testing.assert_array_equal(got, want)


def test_calls_from_several_threads():
    case = LARGE[0]
    layout = plan_layout(*case)
    x = normal(np.random.default_rng(11), case[0], np.float32)
    want = engine.fused_train(x, None, None, 1e-3, layout)[0]
    results = []
    callers = [
        threading.Thread(target=lambda: results.append(engine.fused_train(x, None, None, 1e-3, layout)[0]))
        for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 4
    for got in results:
        np.testing.assert_array_equal(got, want)


def in_child(queue):
    queue.put(float(np.abs(both_passes(*LARGE[0], 2)[0]).sum()))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_of_fork_starts_helpers_of_its_own():
    want = float(np.abs(both_passes(*LARGE[0], 2)[0]).sum())
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == want
    child.join()
