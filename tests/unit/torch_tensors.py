"""What the tests of PyTorch's tensors on the CPU kernels have in common."""

from typing import Any

import torch

from tolerances import assert_close, dtype_name

Tensor = torch.Tensor
MEMORY = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "with gaps": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "transposed": lambda x: x.mT.contiguous().mT,
}


def normal(*shape: int, seed: int = 0, mean: float = 0.0, dtype: Any = torch.float32) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double() + mean).to(dtype)


def close(got: Tensor, want: Tensor, dtype: Any, what: str, **allowed: Any) -> None:
    assert_close(got.detach().double(), want.detach().double(), dtype_name(dtype), what, **allowed)
