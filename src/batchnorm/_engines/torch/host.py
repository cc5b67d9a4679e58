"""The numbers of a tensor, if they are known without waiting for an accelerator."""

from typing import Any

import torch

from batchnorm._engines.torch.cpu_kernels import has_raw_memory
from batchnorm._engines.torch.numpy_ops import as_numpy

__all__ = ["host_values"]

KNOWN = (torch.float16, torch.float32, torch.float64)


def host_values(value: torch.Tensor) -> Any:
    """The numbers as a NumPy array, if they are in CPU memory and not traced; otherwise None."""
    if not has_raw_memory(value):
        return None
    # NumPy has none of PyTorch's other floats: bfloat16, and those of 8 bits.
    is_foreign = value.is_floating_point() and value.dtype not in KNOWN
    return as_numpy(value.detach().float() if is_foreign else value)
