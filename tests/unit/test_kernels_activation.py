"""The CPU kernels with an activation and a residual, y = act(gamma * xhat + beta + z), against NumPy in float64."""

import functools
import math

import ml_dtypes
import numpy as np
import pytest

from batchnorm import _kernels
from tolerances import assert_close, dtype_name
from unit.kernel_levels import levels

pytestmark = pytest.mark.skipif(not _kernels.available(), reason=f"CPU kernels: {_kernels.why_missing()}")

DTYPES = [np.dtype(t) for t in ("float32", "float64", "float16", ml_dtypes.bfloat16)]
ACTIVATIONS = ["identity", "relu", "relu6", "leaky_relu", "hard_tanh", "hard_swish"]
ACTIVATIONS += ["silu", "gelu", "gelu_tanh", "sigmoid", "tanh"]
SLOPE = 0.3
KINKS = {"relu": [0], "leaky_relu": [0], "relu6": [0, 6], "hard_tanh": [-1, 1], "hard_swish": [-3, 3]}
# Sizes as the kernels take them: outer, group, middle, channel, inner.
LAYOUTS = {
    "channels last": (1, 1, 211, 13, 1),
    "channels first": (1, 1, 6, 13, 35),
    "planes": (1, 1, 3, 5, 667),
    "planes of several pieces": (1, 1, 1, 2, 17001),
    "one channel": (1, 1, 210, 1, 1),
    "few channels": (1, 1, 360, 3, 1),
    "many channels": (1, 1, 6, 2500, 1),
    "interleaved": (3, 2, 35, 13, 1),
    "contiguous": (1, 3, 70, 13, 1),
    "interleaved, channels first": (2, 3, 1, 13, 35),
    "contiguous, channels first": (1, 3, 2, 13, 289),
    "two axes": (6, 5, 7, 13, 1),
    "small": (1, 1, 2, 3, 1),
    "empty": (0, 1, 5, 3, 1),
    "without positions": (2, 1, 5, 3, 0),
}
# Written past the caches, and of more than one task.
LARGE = [(1, 1, 65, 77, 441), (1, 1, 7, 5, 63001), (1, 1, 2201, 1003, 1)]
EPSILON = 0.1

erfc = np.frompyfunc(math.erfc, 1, 1)


@pytest.fixture(params=levels())
def native(request):
    """The kernels by each instruction set that this machine has."""
    module = _kernels.load()
    module.select_instructions(request.param)
    yield module
    module.select_instructions(None)


def activate(name, u):
    """The value and the derivative, in the precision of u."""
    one = np.ones_like(u)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if name == "relu":
            return np.maximum(u, 0), one * (u > 0)
        if name == "leaky_relu":
            return np.where(u > 0, u, SLOPE * u), np.where(u > 0, one, SLOPE * one)
        if name in ("relu6", "hard_tanh"):
            low, high = (0, 6) if name == "relu6" else (-1, 1)
            return np.clip(u, low, high), one * ((u > low) & (u < high))
        if name == "hard_swish":
            inside = np.where(u >= 3, one, (u + 1.5) / 3)
            return u * (np.clip(u + 3, 0, 6) / 6), np.where(u <= -3, 0 * one, inside)
        if name == "silu":
            return u * logistic(u), logistic(u) + u * logistic(u) * logistic(-u)
        if name == "sigmoid":
            return logistic(u), logistic(u) * logistic(-u)
        if name == "tanh":
            return np.tanh(u), 1 / np.cosh(u) ** 2
        if name == "gelu":
            below = 0.5 * erfc((-u * math.sqrt(0.5)).astype(np.float64)).astype(u.dtype)
            return u * below, below + u * np.exp(-u * u / 2) / math.sqrt(2 * math.pi)
        if name == "gelu_tanh":
            root = np.sqrt(8 / np.arccos(-one))
            v, inner = root * (u + 0.044715 * u**3), root * (1 + 0.134145 * u**2)
            return u * logistic(v), logistic(v) + u * logistic(v) * logistic(-v) * inner
    return u, one


def logistic(u):
    return 1 / (1 + np.exp(-u))


def at_odd_place(values, dtype):
    """A copy that begins three numbers into its memory."""
    room = np.empty(values.size + 3, dtype)
    room[3:] = values.astype(dtype).reshape(-1)
    return room[3:].reshape(values.shape)


def widened(array):
    return array.astype(np.float64)


def address(array):
    return 0 if array is None else array.ctypes.data


class Case:
    """Random arrays of one layout and type; `u`, h and the like in float64."""

    def __init__(self, sizes, dtype, name, with_residual):
        rng = np.random.default_rng(2)
        self.sizes, self.dtype, self.name = sizes, dtype, name
        self.stat = np.dtype(np.float64 if dtype == np.float64 else np.float32)
        self.kept = (1, sizes[1], 1, sizes[3], 1)
        self.x, self.dy, residual = (at_odd_place(rng.normal(0.5, 1.5, sizes), dtype) for _ in range(3))
        self.residual = residual if with_residual else None
        self.mean, self.gamma, self.beta, self.tilt, self.offset = (
            rng.normal(0.5, 1.0, self.kept).astype(self.stat) for _ in range(5)
        )
        self.count = sizes[0] * sizes[2] * sizes[4]

    def activated(self, mean, scale, shift):
        """The value and h of u = (x - mean) * scale + shift + residual; dy is 0 near a kink, where rounding decides."""
        u = (widened(self.x) - widened(mean)) * widened(scale) + widened(shift)
        if self.residual is not None:
            u += widened(self.residual)
        for kink in KINKS.get(self.name, []):
            self.dy[abs(u - kink) < 1e-4] = 0
        y, slope = activate(self.name, u)
        return y, slope * widened(self.dy)

    def epilogue(self, native, residual=True):
        return native.ACTIVATIONS[self.name], SLOPE, address(self.residual) if residual else 0

    def empty(self):
        return at_odd_place(np.full(self.sizes, np.nan), self.dtype)

    def statistics(self, many):
        return [np.full(self.kept, np.nan, self.stat) for _ in range(many)]

    def type(self, native):
        return getattr(native, dtype_name(self.dtype).upper())

    def sums(self, h, mean, factor=1):
        """The sum of h, and of factor * h * (x - mean), each with the sum of its terms' sizes."""
        terms = h, factor * h * (widened(self.x) - widened(mean))
        return [(v.sum((0, 2, 4), keepdims=True), abs(v).sum((0, 2, 4), keepdims=True)) for v in terms]

    def close(self, got, want, name, scale=None):
        assert_close(got, want, self.dtype, f"{name} of {self.name}", scale=scale)

    def close_sums(self, got, want):
        for name, a, (b, size) in zip(("sum", "centered sum"), got, want, strict=True):
            assert_close(a, b, self.stat, f"{name} of {self.name}", scale=np.maximum(size, 1.0))


def check_passes(native, case):
    """apply, grad_sums and grad_input with the same statistics."""
    kind, sizes, epilogue = case.type(native), case.sizes, case.epilogue(native)
    known = [address(a) for a in (case.mean, case.gamma, case.beta)]
    x, dy = address(case.x), address(case.dy)
    y, h = case.activated(case.mean, case.gamma, case.beta)
    got = case.empty()
    native.apply(kind, sizes, x, *known, address(got), 1, epilogue)
    case.close(got, y, "y")
    for pulled in (case.empty(), None):
        sums = case.statistics(2)
        written = [address(a) for a in sums]
        native.grad_sums(
            kind, sizes, dy, x, known[0], *written, 1, epilogue, known[1], known[2], address(pulled)
        )
        case.close_sums(sums, case.sums(h, case.mean))
        if pulled is not None:
            case.close(pulled, h, "pulled")
    if case.residual is None:
        terms = [address(a) for a in (case.mean, case.gamma, case.tilt, case.offset)]
        native.grad_input(kind, sizes, dy, x, 0, False, *terms, address(got), 1, epilogue, known[2])
        line = case.tilt * (widened(case.x) - widened(case.mean)) + case.offset
        case.close(got, widened(case.gamma) * h + line, "dx")


def check_one_call_forms(native, case, threads=1):
    """train, infer and gradients, with and without `pulled`."""
    kind, sizes, epilogue = case.type(native), case.sizes, case.epilogue(native)
    mean, rest, variance, scale, shift = statistics = case.statistics(5)
    x, dy, channels = address(case.x), address(case.dy), sizes[1] * sizes[3]
    given = [address(case.gamma), address(case.beta), channels]
    written = [address(a) for a in statistics]
    y = case.empty()
    native.train(kind, sizes, x, *given, EPSILON, address(y), *written[:4], threads, epilogue, written[4])
    if case.count:
        case.close(mean + widened(rest), widened(case.x).mean((0, 2, 4), keepdims=True), "mean")
    inverse = 1 / np.sqrt(widened(variance) + EPSILON)
    assert_close(scale, case.gamma * inverse, case.stat, "scale")
    assert_close(shift, widened(case.beta) - widened(rest) * widened(scale), case.stat, "shift")
    want, h = case.activated(mean, scale, shift)
    case.close(y, want, "y")
    native.infer(kind, sizes, x, *given, written[0], written[2], EPSILON, address(y), threads, epilogue)
    u_scale = widened(case.gamma) * inverse
    case.close(y, case.activated(mean, u_scale, case.beta)[0], "y of inference")
    sums_of_h = case.sums(h, mean + widened(rest), inverse)
    (first, _), (second, _) = sums_of_h
    centered, count = widened(case.x) - mean - widened(rest), max(case.count, 1)
    dx = widened(scale) * (h - first / count - centered * inverse * second / count)
    for pulled in (case.empty(), None):
        if pulled is None and case.residual is not None:
            continue
        got, sums = case.empty(), case.statistics(2)
        outputs = [address(a) for a in (got, *sums)]
        native.gradients(
            kind,
            sizes,
            dy,
            x,
            *written[:4],
            EPSILON,
            *outputs,
            threads,
            epilogue,
            written[4],
            address(pulled),
        )
        # `pulled` is rounded before dx is made of it.
        case.close(got, dx, "dx", np.maximum(abs(widened(scale) * h) + abs(dx), 1.0))
        case.close_sums(sums, sums_of_h)
        if pulled is not None:
            case.close(pulled, h, "pulled")


@functools.cache
def small_case(layout, dtype, name, residual):
    return Case(LAYOUTS[layout], dtype, name, residual)


@pytest.mark.parametrize("residual", [False, True], ids=["alone", "with a residual"])
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_pass_agrees_with_float64(native, layout, dtype, residual):
    # All activations in a small layout, and some of each sort in the others.
    few = ["relu", "hard_tanh", "leaky_relu", "gelu", "identity"]
    for name in ACTIVATIONS if layout in ("channels last", "planes", "small") else few:
        check_passes(native, small_case(layout, dtype, name, residual))
        check_one_call_forms(native, small_case(layout, dtype, name, residual))


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("sizes", LARGE, ids=str)
def test_large_outputs_agree_with_float64(native, sizes, dtype):
    name, residual = ("relu", True) if dtype.itemsize == 4 else ("hard_swish", dtype.itemsize == 8)
    check_one_call_forms(native, Case(sizes, dtype, name, residual), 2)


@pytest.mark.parametrize("layout", ["channels last", "planes", "contiguous"])
def test_without_an_epilogue_nothing_changes(native, layout):
    case = Case(LAYOUTS[layout], np.dtype(np.float32), "identity", False)
    known = [address(a) for a in (case.mean, case.gamma, case.beta)]
    outputs = []
    for more in ((), (None,), ((native.ACTIVATIONS["identity"], 0.0, 0),)):
        got = case.empty()
        native.apply(native.FLOAT32, case.sizes, address(case.x), *known, address(got), 1, *more)
        outputs.append(got)
    for got in outputs[1:]:
        np.testing.assert_array_equal(got, outputs[0])


@pytest.mark.parametrize("layout", ["channels last", "planes"])
def test_numbers_do_not_depend_on_the_threads(layout):
    native = _kernels.load()
    sizes = (1, 1, 60000, 33, 1) if layout == "channels last" else (1, 1, 16, 24, 3600)
    case = Case(sizes, np.dtype(np.float32), "gelu", True)
    found = []
    for threads in (1, 2, 3):
        y, dx, pulled = (case.empty() for _ in range(3))
        kept = case.statistics(7)
        s = [address(a) for a in kept]
        x, epilogue, channels = address(case.x), case.epilogue(native), sizes[3]
        native.train(0, sizes, x, 0, 0, channels, EPSILON, address(y), *s[:4], threads, epilogue, s[4])
        outputs = address(dx), *s[5:]
        native.gradients(
            0, sizes, address(case.dy), x, *s[:4], EPSILON, *outputs, threads, epilogue, s[4], address(pulled)
        )
        found.append([y, dx, pulled, *kept])
    for other in found[1:]:
        for got, want in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(got, want)


def by_kernels(native, name, u):
    """The value and the derivative of an activation at each u."""
    kind = native.FLOAT64 if u.dtype == np.float64 else native.FLOAT32
    one, zero, sums = np.ones(1, u.dtype), np.zeros(1, u.dtype), np.empty(2, u.dtype)
    y, h, dy = np.empty_like(u), np.empty_like(u), np.ones_like(u)
    sizes, epilogue, known = (1, 1, 1, 1, u.size), (native.ACTIVATIONS[name], SLOPE, 0), [zero, one, zero]
    native.apply(kind, sizes, address(u), *map(address, known), address(y), 1, epilogue)
    first, second = address(sums), address(sums) + u.itemsize
    native.grad_sums(
        kind, sizes, address(dy), address(u), address(zero), first, second, 1, epilogue, address(one),
        address(zero), address(h),
    )  # fmt: skip
    return y, h


@functools.cache
def every_size(dtype):
    """Numbers of all exponents and both signs, and many of those that matter."""
    finfo = np.finfo(dtype)
    exponents = np.arange(finfo.minexp - finfo.nmant, finfo.maxexp, 1 if dtype == np.float32 else 7)
    fractions = np.linspace(1.0, 2.0, 41)[:-1]
    with np.errstate(under="ignore"):
        spread = np.ldexp(fractions[:, None].astype(dtype), exponents).reshape(-1)
    positive = np.concatenate([spread, np.linspace(0, 25, 40001).astype(dtype)]).astype(dtype)
    return np.concatenate([positive, -positive])


@functools.cache
def exact(name, dtype):
    u = every_size(dtype)
    with np.errstate(all="ignore"):
        value, derivative = activate(name, u.astype(np.longdouble))
    # Far from zero infinity times zero came up on the way.
    value = np.where(np.isnan(value), np.where(u > 0, u, 0), value)
    return value, np.where(np.isnan(derivative), u > 0, derivative)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_accuracy_for_numbers_of_every_size(native, name, dtype):
    u = every_size(dtype)
    got, slopes = by_kernels(native, name, u)
    assert np.isfinite(got).all()
    assert np.isfinite(slopes).all()
    value, derivative = exact(name, dtype)
    unit, tiny = np.finfo(dtype).eps / 2, 2.0**-116 if dtype == np.float32 else 2.0**-960
    of_u = name == "gelu_tanh" or (name == "gelu" and dtype == np.float64)
    scale = np.maximum(np.abs(u) if of_u else np.abs(value), tiny)
    assert (np.abs(got - value) / scale).max() <= 8 * unit
    assert np.abs(slopes - derivative).max() <= 8 * unit
    # Beyond what the activation bends, exactly.
    far = np.abs(u) > 1e4
    saturated = {"leaky_relu": SLOPE, "identity": 1}.get(name, 0)
    upper = 0 if name in ("relu6", "hard_tanh", "sigmoid", "tanh") else 1
    np.testing.assert_array_equal(slopes[far], np.where(u[far] > 0, upper, dtype(saturated)))


SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 3.0, -3.0, 6.0, 1e30, -1e30, 1e-40]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_special_numbers_are_as_in_torch(native, name, dtype):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    theirs = {
        "identity": lambda v: v * 1,
        "leaky_relu": lambda v: functional.leaky_relu(v, SLOPE),
        "hard_tanh": functional.hardtanh,
        "hard_swish": functional.hardswish,
        "gelu_tanh": lambda v: functional.gelu(v, approximate="tanh"),
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
    }.get(name) or getattr(functional, name)
    u = np.tile(np.array(SPECIAL, dtype), 40)
    value, slope = by_kernels(native, name, u)
    given = torch.tensor(u, requires_grad=True)
    wanted = theirs(given)
    wanted.sum().backward()
    # Its gelu of infinity is NaN, and JAX's and TensorFlow's infinite.
    asked = np.isfinite(u) | (name != "gelu") | ~(u > 0)
    np.testing.assert_allclose(value[asked], wanted.detach().numpy()[asked], rtol=1e-6, atol=1e-6)
    assert np.isnan(value[np.isnan(u)]).all()
    # Some of its derivatives are NaN where ours are not.
    known = np.isfinite(given.grad.numpy()) & np.isfinite(u)
    np.testing.assert_allclose(slope[known], given.grad.numpy()[known], rtol=1e-6, atol=1e-6)


def test_infinity_and_a_missing_number_in_the_clips(native):
    u = np.array([np.nan, np.inf, -np.inf], np.float32)
    for name, low, high, above in [("relu", 0, np.inf, 1), ("relu6", 0, 6, 0), ("hard_tanh", -1, 1, 0)]:
        value, slope = by_kernels(native, name, u)
        np.testing.assert_array_equal(value, [np.nan, high, low])
        np.testing.assert_array_equal(slope, [0, above, 0])
    for name in ("silu", "gelu", "gelu_tanh", "hard_swish"):
        np.testing.assert_array_equal(by_kernels(native, name, u)[0], [np.nan, np.inf, np.nan])


def test_what_is_refused():
    native = _kernels.load()
    x, c = np.ones((2, 3), np.float32), np.ones((8, 3), np.float32)
    out = np.full((2, 3), 7, np.float32)
    a, y, s, sizes = address(x), address(out), [address(row) for row in c], (1, 1, 2, 3, 1)
    relu, with_residual = (1, 0.0, 0), (1, 0.0, a)
    calls = [
        lambda e: native.apply(0, sizes, a, *s[:3], y, 1, e),
        lambda e: native.train(0, sizes, a, 0, 0, 3, 0.1, y, *s[:4], 1, e),
        lambda e: native.infer(0, sizes, a, 0, 0, 3, s[0], s[1], 0.1, y, 1, e),
        lambda e: native.grad_sums(0, sizes, a, a, s[0], s[1], s[2], 1, e, s[3], s[4]),
        lambda e: native.grad_input(0, sizes, a, a, 0, False, *s[:4], y, 1, e, s[4]),
        lambda e: native.gradients(0, sizes, a, a, *s[:4], 0.1, y, s[4], s[5], 1, e, s[6]),
    ]
    for call in calls:
        for unknown in (-1, len(native.ACTIVATIONS)):
            with pytest.raises(ValueError, match="no such activation"):
                call((unknown, 0.0, 0))
    refused = [
        lambda: calls[4](with_residual),
        lambda: calls[5](with_residual),
        lambda: native.grad_input(0, sizes, a, a, s[0], False, *s[:4], y, 1, relu, s[4]),
        # Without an epilogue there is no h to keep.
        lambda: native.grad_sums(0, sizes, a, a, s[0], s[1], s[2], 1, None, 0, 0, y),
        lambda: native.gradients(0, sizes, a, a, *s[:4], 0.1, y, s[4], s[5], 1, None, 0, y),
    ]
    for call in refused:
        with pytest.raises(ValueError, match="do not go with the call"):
            call()
    np.testing.assert_array_equal(out, 7)


def test_activations_are_numbered_in_this_order():
    assert list(_kernels.load().ACTIVATIONS.items()) == list(zip(ACTIVATIONS, range(11), strict=True))
