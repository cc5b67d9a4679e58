"""PyTorch's own threads, on which the CPU kernels run for its tensors.

PyTorch's operations run on an OpenMP team, whose threads spin while they wait for the next one. Threads of ours would
have to share the processors with those that wait: in a network of convolutions and batch norms that costs more than it
gains.
"""

import ctypes
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

from batchnorm import _kernels

__all__ = ["joins_team", "threads"]

# How compilers start an OpenMP region, in GCC's runtime and those that are compatible with it.
START = "GOMP_parallel"


def threads() -> int:
    """The number of threads to pass to a kernel: PyTorch's setting, negative if they are PyTorch's own threads."""
    number = torch.get_num_threads()
    return -number if joins_team() else number


@cache
def joins_team() -> bool:
    """Whether the kernels run on PyTorch's threads; otherwise they have their own."""
    native = _kernels.load()
    if native is None or "OpenMP" not in torch.__config__.parallel_info():
        return False
    for name in _runtimes():
        try:
            start = getattr(ctypes.CDLL(name, os.RTLD_NOW | os.RTLD_NOLOAD), START)
        except (OSError, AttributeError):
            continue  # not in the process, or another runtime
        address = ctypes.cast(start, ctypes.c_void_p).value
        if address:
            native.use_team(address)
            return True
    return False


def _runtimes() -> Iterator[str]:
    """Where PyTorch's OpenMP may be: beside it in its wheels, or the system's."""
    yield from map(str, sorted((Path(torch.__file__).parent / "lib").glob("lib*omp*")))
    yield from ("libgomp.so.1", "libomp.so.5", "libomp.dylib")
