"""Elementwise functions compiled by XLA, each once per shape, if that pays off; otherwise plain operations.

One compiled loop reads each array once, where TensorFlow's own operations would read and write it once each.
A loop is compiled when its shape first appears and stays for the life of the process, so only
arrays of known shape and of some size get one, on a host that computes on its CPU, and only a limited number of them.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import tensorflow as tf

from batchnorm._engines.tensorflow.context import is_confined, is_cpu

__all__ = ["kernel", "pays"]

Tensor = Any
Function = Callable[..., Any]

LEAST_ELEMENTS = 100_000
# Bounds the cost to a program whose shapes never repeat: a kernel takes about 0.1 s to compile and 1.6 MB to keep.
MOST_KERNELS = 128

_kernels: dict[Any, Function] = {}


def pays(*arrays: Tensor) -> bool:
    """Whether compiling for these arrays pays off; the first is the largest."""
    size = arrays[0].shape.num_elements()
    if size is None or size < LEAST_ELEMENTS or not all(array.shape.is_fully_defined() for array in arrays):
        return False
    return _can_compile() and not is_confined()


def kernel(function: Function, static: tuple[Any, ...], arrays: tuple[Tensor, ...]) -> Function:
    """`function(*static, ...)` for arrays of these shapes: compiled, or as it is if there are too many already."""
    key = (function, static, *((array.dtype, tuple(array.shape)) for array in arrays))
    if key not in _kernels:
        bound = partial(function, *static)
        if len(_kernels) >= MOST_KERNELS:
            return bound
        _kernels[key] = tf.function(bound, autograph=False, jit_compile=True)
    return _kernels[key]


@cache
def _can_compile() -> bool:
    return is_cpu() and tf.test.is_built_with_xla()
