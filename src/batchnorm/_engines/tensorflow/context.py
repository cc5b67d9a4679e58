"""Where the program runs: on which devices, and inside which graphs."""

from functools import cache

import tensorflow as tf

from batchnorm._engines.tensorflow.private import (
    ControlFlowFuncGraph,
    compiles_or_loops,
    enclosing_graphs,
    is_defun,
    output_all_intermediates,
)

__all__ = ["in_wrapped_function", "is_confined", "is_cpu", "is_function", "is_laid_open"]


@cache
def is_cpu() -> bool:
    """Whether this process computes on CPUs only. Asking does not fix the configuration of the devices."""
    return all(device.device_type == "CPU" for device in tf.config.get_visible_devices())


def is_confined() -> bool:
    """Whether what is being built compiles as a whole, or is a loop of TensorFlow 1.

    XLA compiles loops inside a larger program badly, and TensorFlow 1 cannot differentiate its loops through a call.
    """
    return any(map(compiles_or_loops, enclosing_graphs()))


def is_function() -> bool:
    """Whether a `tf.function` is being built, which may be called from another one later."""
    graph = next((graph for graph in enclosing_graphs() if not isinstance(graph, ControlFlowFuncGraph)), None)
    return graph is not None and graph.building_function and not is_defun(graph)


def in_wrapped_function() -> bool:
    """Whether `tf.compat.v1.wrap_function` builds a graph, in which no assignment runs unless it is fetched."""
    # As Keras 2 tells them from other functions.
    return any(str(getattr(graph, "name", "")).startswith("wrapped_function") for graph in enclosing_graphs())


def is_laid_open() -> bool:
    """Whether what is being built is a condition or loop inside one of Keras 2's layers.

    There each tensor becomes a result of its own, and TensorFlow then differentiates op by op.
    """
    graph = tf.compat.v1.get_default_graph()
    return isinstance(graph, ControlFlowFuncGraph) and output_all_intermediates()
