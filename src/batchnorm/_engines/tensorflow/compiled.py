"""Elementwise functions compiled by XLA, each once per shape, where that pays; plain operations elsewhere.

One compiled loop reads each array once, where TensorFlow's own operations would read and write it once each.
A loop is compiled when its shape first appears (some 0.1 s) and stays for the life of the process, so only
arrays of known shape and of some size get one, on a host that computes on its CPU, and only so many of them.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import tensorflow as tf

__all__ = ["is_cpu", "run"]

Tensor = Any
Function = Callable[..., Any]

LEAST_ELEMENTS = 100_000
# Bounds the time and the memory that a program spends on compiling whose shapes never repeat.
MOST_KERNELS = 512
# Longer than these, a compiled loop over more stretches runs out of registers.
STRETCHES = 8
MOST_STRETCHES = 16

_kernels: dict[Any, Function] = {}


def run(function: Function, *blocks: Tensor) -> Any:
    """A function of `elementwise` on blocks, the first of which is the largest."""
    kernel = _kernel(function, blocks)
    return function(None, *blocks) if kernel is None else kernel(*blocks)


@cache
def is_cpu() -> bool:
    """Whether this process computes on CPUs only. Asking leaves the devices open to configuration."""
    return all(device.device_type == "CPU" for device in tf.config.get_visible_devices())


def _kernel(function: Function, blocks: tuple[Tensor, ...]) -> Function | None:
    size = blocks[0].shape.num_elements()
    if size is None or size < LEAST_ELEMENTS or not _can_compile():
        return None
    if not all(block.shape.is_fully_defined() for block in blocks):
        return None
    key = (function, *((block.dtype, tuple(block.shape)) for block in blocks))
    if key not in _kernels and len(_kernels) < MOST_KERNELS:
        stride = _stride(blocks[0].shape[1])
        _kernels[key] = tf.function(partial(function, stride), autograph=False, jit_compile=True)
    return _kernels.get(key)


@cache
def _can_compile() -> bool:
    return is_cpu() and tf.test.is_built_with_xla()


def _stride(length: int) -> int:
    return 1 if length <= MOST_STRETCHES else -(-length // STRETCHES)
