"""Sizes beyond 32 bits: arrays of more than 2³¹ elements, nearly all of them one page of zeros, mapped often."""

import mmap
import sys

import ml_dtypes
import numpy as np
import pytest

from batchnorm import _kernels

pytestmark = [
    pytest.mark.skipif(not _kernels.available(), reason=f"CPU kernels: {_kernels.why_missing()}"),
    pytest.mark.skipif(sys.platform != "linux", reason="reserves no memory for zeros, as Linux does"),
]

CHANNELS = 1536
ROWS = 1_433_600
SIZE = ROWS * CHANNELS


# The same memory as channels last, as one plane for each of 8 channels, and as small images of two groups.
@pytest.mark.parametrize(
    "sizes",
    [(1, 1, ROWS, CHANNELS, 1), (1, 1, 1, 8, SIZE // 8), (1, 2, ROWS // 16, 64, 192)],
    ids=["channels last", "planes", "groups of images"],
)
def test_more_elements_than_32_bits_count(sizes):
    assert SIZE > 2**31
    native = _kernels.load()
    memory = mmap.mmap(
        -1, 2 * SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    )
    memory.madvise(mmap.MADV_HUGEPAGE)
    x = np.frombuffer(memory, np.uint16).view(ml_dtypes.bfloat16)
    # What counts lies at the end, where an index of 32 bits would not get.
    tail = np.random.default_rng(0).integers(1, 100, 20 * CHANNELS).astype(ml_dtypes.bfloat16)
    x[-tail.size :] = tail
    _, group, _, channel, inner = sizes
    count, many = SIZE // (group * channel), group * channel
    total, square = np.zeros((2, many))
    position = np.arange(SIZE - tail.size, SIZE)
    statistic = position // inner % channel + channel * (position // (SIZE // group))
    np.add.at(total, statistic, tail.astype(np.float64))
    np.add.at(square, statistic, tail.astype(np.float64) ** 2)

    mean, rest, variance, first, second = (np.empty(many, np.float32) for _ in range(5))
    at = [array.ctypes.data for array in (first, second)]
    written = [array.ctypes.data for array in (mean, rest, variance)]
    native.moments(native.BFLOAT16, sizes, x.ctypes.data, 0, False, 0, 0, *written, _kernels.threads())
    np.testing.assert_allclose(mean, total / count, rtol=1e-5)
    np.testing.assert_allclose(variance, square / count - (total / count) ** 2, rtol=1e-5)
    zeros = np.zeros(many, np.float32)
    address = x.ctypes.data
    native.grad_sums(native.BFLOAT16, sizes, address, address, zeros.ctypes.data, *at, _kernels.threads())
    np.testing.assert_allclose(first, total, rtol=1e-5)
    np.testing.assert_allclose(second, square, rtol=1e-5)


def test_a_size_that_cannot_be_addressed_is_refused():
    native = _kernels.load()
    with pytest.raises(ValueError, match="too large to address"):
        native.apply(native.FLOAT32, (2**32, 1, 2**32, 1, 1), 0, 0, 0, 0, 0, 1)
