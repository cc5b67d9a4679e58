"""Elementwise functions compiled by XLA, each once per shape, if that pays off; otherwise plain operations.

One compiled loop reads each array once, where TensorFlow's own operations would read and write it once each.
A loop is compiled when its shape first appears and stays for the life of the process, so only
arrays of known shape and of some size get one, on a host that computes on its CPU, and only a limited number of them.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import tensorflow as tf

from batchnorm._engines.tensorflow.private import (
    ControlFlowFuncGraph,
    compiles_or_loops,
    enclosing_graphs,
    is_defun,
    output_all_intermediates,
)

__all__ = ["LEAST_ELEMENTS", "is_confined", "is_cpu", "is_function", "is_laid_open", "kernel", "pays"]

Tensor = Any
Function = Callable[..., Any]

LEAST_ELEMENTS = 100_000
# Bounds the cost to a program whose shapes never repeat: a kernel takes about 0.1 s to compile and 1.6 MB to keep.
MOST_KERNELS = 128

_kernels: dict[Any, Function] = {}


@cache
def is_cpu() -> bool:
    """Whether this process computes on CPUs only. Asking does not fix the configuration of the devices."""
    return all(device.device_type == "CPU" for device in tf.config.get_visible_devices())


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


def is_confined() -> bool:
    """Whether what is being built compiles as a whole, or is a loop of TensorFlow 1.

    XLA compiles loops inside a larger program badly, and TensorFlow 1 cannot differentiate its loops through a call.
    """
    return any(map(compiles_or_loops, enclosing_graphs()))


def is_function() -> bool:
    """Whether a `tf.function` is being built, which may be called from another one later."""
    graph = next((graph for graph in enclosing_graphs() if not isinstance(graph, ControlFlowFuncGraph)), None)
    return graph is not None and graph.building_function and not is_defun(graph)


def is_laid_open() -> bool:
    """Whether what is being built is a condition or loop inside one of Keras 2's layers.

    There each tensor becomes a result of its own, and TensorFlow then differentiates op by op.
    """
    graph = tf.compat.v1.get_default_graph()
    return isinstance(graph, ControlFlowFuncGraph) and output_all_intermediates()
