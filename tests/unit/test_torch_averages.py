"""The call that moves a plain step's averages against the core's rules, by the kernel and in PyTorch's operations."""

from typing import Any

import numpy as np
import pytest
import torch

from batchnorm._core.engine import Batch
from batchnorm._core.state import advance
from batchnorm._engines.numpy import ops
from batchnorm._engines.torch import cpu_kernels
from batchnorm.options import Options

pytestmark = pytest.mark.needs("torch")


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("last", [7.0, float("inf")])
def test_averages_move_as_the_core_says(
    monkeypatch: Any, kernels: bool, dtype: torch.dtype, share: float, groups: int, last: float
) -> None:
    if not kernels:
        monkeypatch.setattr(cpu_kernels, "load", lambda: None)
    mean = torch.arange(4.0 * groups, dtype=dtype).reshape(groups, 4)
    variance = mean.flip(1) + 1.0
    variance[0, -1] = last
    old = torch.full((4,), 2.0, dtype=dtype), torch.full((4,), 3.0, dtype=dtype)
    version = old[0]._version
    means, variances = (value.numpy().mean(0) for value in (mean, variance))
    batch = Batch(means, variances, variances * 1.5, None)
    state = {"moving_mean": old[0].numpy().copy(), "moving_variance": old[1].numpy().copy()}
    want = advance(ops, Options(decay=1.0 - share), state, batch)
    cpu_kernels.move_averages(old, (mean, variance), 1.5, share)
    for got, slot in zip(old, ("moving_mean", "moving_variance"), strict=True):
        np.testing.assert_allclose(got.numpy(), want[slot], rtol=1e-6)
    # PyTorch knows of the write, so that it refuses gradients that need the old numbers.
    assert (old[0]._version > version) == (share > 0.0)
