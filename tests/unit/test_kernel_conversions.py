"""16-bit numbers through the CPU kernels: read exactly, written to the nearest, ties to even."""

import ml_dtypes
import numpy as np
import pytest

from batchnorm import _kernels
from tolerances import dtype_name
from unit.kernel_levels import levels

pytestmark = pytest.mark.skipif(not _kernels.available(), reason=f"CPU kernels: {_kernels.why_missing()}")

DTYPES = [np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)]
EVERY = np.arange(1 << 16, dtype=np.uint16)
# Sizes as the kernels take them, from the number of elements: one plane, short planes, columns, and few columns.
LAYOUTS = {
    "plane": lambda n: (1, 1, 1, 1, n),
    "short planes": lambda n: (1, 1, n // 64, 2, 32),
    "columns": lambda n: (1, 1, n // 64, 64, 1),
    "few columns": lambda n: (1, 1, n // 4, 4, 1),
}


@pytest.fixture(params=levels())
def native(request):
    """The kernels by each instruction set that this machine has."""
    module = _kernels.load()
    assert module is not None
    module.select_instructions(request.param)
    yield module
    module.select_instructions(None)


def scaled(native, x, sizes, scale):
    """x * scale by the kernels, one number for all channels."""
    kind = native.FLOAT16 if x.dtype == np.float16 else native.BFLOAT16
    y, many = np.empty_like(x), sizes[1] * sizes[3]
    known = [np.full(many, value, np.float32) for value in (0.0, scale, 0.0)]
    pointers = [array.ctypes.data for array in (x, *known, y)]
    native.apply(kind, sizes, *pointers, 1)
    return y


def same(got, want):
    """Equal numbers, NaN where there is NaN."""
    np.testing.assert_array_equal(got.astype(np.float32), want.astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("layout", LAYOUTS)
# The second makes ties of odd numbers, the others round either way, overflow and fall below the smallest number.
@pytest.mark.parametrize("scale", [1.0, 1.5, 1.0 + 2.0**-7, 1.0009765, 3e-3, 700.0])
def test_every_number_is_read_and_rounded(native, layout, dtype, scale):
    x = EVERY.view(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        want = (x.astype(np.float32) * np.float32(scale)).astype(dtype)
    same(scaled(native, x, LAYOUTS[layout](x.size), scale), want)


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("skipped", [0, 3])
def test_every_number_is_read_and_rounded_past_the_caches(native, dtype, skipped):
    x = np.tile(EVERY, 65)[skipped:].view(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        want = (x.astype(np.float32) * np.float32(1.5)).astype(dtype)
    same(scaled(native, x, (1, 1, 1, 1, x.size), 1.5), want)
