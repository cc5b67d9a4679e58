"""An op of our own beside the plain operations that do the same, for functions that XLA may compile after all.

XLA cannot compile our ops. What is built for XLA from the start has none. A function that was traced before, and is
then called from one that XLA compiles, is not traced again: therefore each op in a function is one branch beside
the composed pass, and an index that XLA replaces by a constant of its own selects one of them.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import tensorflow as tf

from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.context import is_function
from batchnorm._engines.tensorflow.private import RegisterPFor, wrap
from batchnorm.layout import Layout

__all__ = ["native_or_composed"]

Tensor = Any


def native_or_composed(
    x: Tensor, layout: Layout, native: Callable[[Layout], Any], composed: Callable[[Layout], Any]
) -> Any:
    """`native(layout)`, and beside it `composed(layout)` for the case that XLA compiles the function being built."""
    if tf.executing_eagerly() or not is_function():
        return native(layout)
    # 0 on a CPU. While compiling, XLA is not on any device yet, and uses the number of devices.
    index = tf.raw_ops.DeviceIndex(device_names=["CPU"])
    return tf.switch_case(
        index, [lambda: native(_measured(x, layout)), lambda: composed(_measured(x, layout))]
    )


def _measured(x: Tensor, layout: Layout) -> Layout:
    """The layout, with unknown sizes taken from x in the graph being built: from outside XLA would not know them."""
    if all(isinstance(size, int) for size in layout.shape):
        return layout
    sizes = zip(layout.shape, ops.shape(x), strict=True)
    shape = split = tuple(size if isinstance(size, int) else now for size, now in sizes)
    ghosts, ghost = layout.ghosts, layout.ghost
    if ghost is not None:
        ghosts = shape[0] // ghost.size
        pair = (ghost.size, ghosts) if ghost.order == "interleaved" else (ghosts, ghost.size)
        split = (*pair, *shape[1:])
    return replace(layout, shape=shape, split=split, ghosts=ghosts)


def _vectorize_index(pfor_input: Any) -> Any:
    """The index is the same for all examples that `tf.vectorized_map` maps over, as a branch there has to be."""
    return wrap(tf.raw_ops.DeviceIndex(device_names=pfor_input.get_attr("device_names")), False)


# The registration fails if TensorFlow, or another package, has made it already.
with suppress(AssertionError):
    RegisterPFor("DeviceIndex")(_vectorize_index)
