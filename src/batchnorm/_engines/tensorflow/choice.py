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
from tensorflow.python.ops.parallel_for.pfor import RegisterPFor, wrap

from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.compiled import is_function
from batchnorm.layout import Layout

__all__ = ["either", "ghosts_of"]

Tensor = Any

# The order of ghosts, as the ops' attribute encodes it.
CONTIGUOUS, INTERLEAVED = 1, 2


def either(x: Tensor, layout: Layout, native: Callable[[Layout], Any], plain: Callable[[Layout], Any]) -> Any:
    """`native(layout)`, and beside it `plain(layout)` for the case that XLA compiles the function being built."""
    if tf.executing_eagerly() or not is_function():
        return native(layout)
    # 0 on a CPU. While compiling, XLA is not on any device yet, and uses the number of devices.
    index = tf.raw_ops.DeviceIndex(device_names=["CPU"])
    return tf.switch_case(index, [lambda: native(_measured(x, layout)), lambda: plain(_measured(x, layout))])


def _measured(x: Tensor, layout: Layout) -> Layout:
    """The layout, with unknown sizes taken from x in the graph being built: from outside XLA would not know them."""
    if all(isinstance(size, int) for size in layout.shape):
        return layout
    sizes = zip(layout.shape, ops.shape(x), strict=True)
    shape = split = tuple(size if isinstance(size, int) else now for size, now in sizes)
    ghosts, order, size = layout.ghosts, *ghosts_of(layout)
    if size:
        ghosts = shape[0] // size
        split = (*((size, ghosts) if order == INTERLEAVED else (ghosts, size)), *shape[1:])
    return replace(layout, shape=shape, split=split, ghosts=ghosts)


def ghosts_of(layout: Layout) -> tuple[int, int]:
    """The order of the ghosts, and how many examples one has; zeros if there are none."""
    if len(layout.split) == len(layout.shape):
        return 0, 0
    return (INTERLEAVED, layout.split[0]) if 0 in layout.reduced else (CONTIGUOUS, layout.split[1])


def _vectorize_index(pfor_input: Any) -> Any:
    """The index is the same for all examples that `tf.vectorized_map` maps over, as a branch there has to be."""
    return wrap(tf.raw_ops.DeviceIndex(device_names=pfor_input.get_attr("device_names")), False)


# The registration fails if TensorFlow, or another package, has made it already.
with suppress(AssertionError):
    RegisterPFor("DeviceIndex")(_vectorize_index)
