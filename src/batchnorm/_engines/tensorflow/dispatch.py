"""Which of three ways a pass takes on TensorFlow's tensors, and why it is not a faster one.

Our ops on the CPU kernels; or passes that XLA compiles one by one; or plain operations, which run anywhere.
"""

from typing import Any, Literal, NamedTuple

import tensorflow as tf

from batchnorm import _kernels
from batchnorm._engines.dispatch import Path
from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.context import (
    in_wrapped_function,
    is_confined,
    is_cpu,
    is_function,
    is_laid_open,
)
from batchnorm._engines.tensorflow.inference import is_image
from batchnorm._kernels.axis_groups import WHY_NO_RUNS, kernel_runs, why_not_weights
from batchnorm._kernels.tensorflow import load, tell_threads, threads, why_missing
from batchnorm.layout import Layout
from batchnorm.options import Ghost, Options

__all__ = [
    "GHOST_ORDERS",
    "Kernels",
    "at_inference",
    "find",
    "plain_step",
    "running",
    "slower_reason",
    "takes_compiled",
    "takes_one_op",
    "unsupported_reason",
]

Tensor = Any

# Numbers in the smallest input for which passes that XLA compiles are faster.
LARGE_INPUT = 250_000
DTYPES = (tf.float32, tf.float64, tf.bfloat16, tf.float16)
# As the ops' attribute tells them; 0 stands for no ghost batches.
GHOST_ORDERS: dict[int, Literal["contiguous", "interleaved"]] = {1: "contiguous", 2: "interleaved"}


class Kernels(NamedTuple):
    """The ops, and the attributes by which they find the runs of a layout in any shape."""

    ops: Any
    attributes: dict[str, Any]
    by_group: bool | None


def find(x: Tensor, weights: Tensor | None, layout: Layout) -> Kernels | None:
    """The ops for x, or None if they cannot be used."""
    eager = tf.executing_eagerly()
    found = _choose(x, weights, layout, eager)
    if isinstance(found, str):
        return None
    tell_threads(computing=eager)
    return found


def takes_one_op(
    x: Tensor, options: Options, layout: Layout, weights: Tensor | None, adjusted: bool
) -> Kernels | None:
    """The ops, if a TensorFlow 1 graph is being built and one op can do the training step; otherwise None."""
    if tf.executing_eagerly() or is_function() or options.fused is False:
        return None
    bare = options.renorm is None and options.ghost is None and not options.debias_mean
    if not bare or options.activation is not None or weights is not None or adjusted:
        return None
    return None if layout.count == 0 or tf.is_tensor(options.epsilon) else find(x, None, layout)


def takes_compiled(x: Tensor) -> bool:
    """Whether XLA compiles the passes over x that our ops cannot take; otherwise they are plain operations.

    Not for small inputs, nor if TensorFlow runs on other devices than CPUs. And not if XLA compiles the whole program:
    it fuses the operations of a pass by itself, and does worse with a compiled function inside a larger one.
    """
    size = x.shape.num_elements()
    return (size is None or size >= LARGE_INPUT) and is_cpu() and not is_confined()


def unsupported_reason(
    x: Tensor, weights: Tensor | None, layout: Layout, synchronized: bool = False
) -> str | None:
    del synchronized
    found = _choose(x, weights, layout, tf.executing_eagerly())
    return found if isinstance(found, str) else None


def _choose(x: Tensor, weights: Tensor | None, layout: Layout, eager: bool) -> Kernels | str:
    """The ops for x, or why they cannot be used."""
    kernels = load()
    if kernels is None:
        return f"they are {why_missing()}"
    if x.dtype not in DTYPES:
        return f"they have no {x.dtype.name}"
    if not is_cpu():
        return "this process may compute on an accelerator, and they work in the CPU's memory"
    runs = kernel_runs(layout)
    if runs is None:
        return WHY_NO_RUNS
    if not eager:
        why = _why_no_ops()
        if why is not None:
            return why
    if weights is not None:
        why = why_not_weights(ops.shape(weights), layout, runs.by_group)
        if why is not None:
            return why
    attributes = {"bounds": runs.bounds, **_ghost_attributes(layout.ghost)}
    return Kernels(kernels, attributes, runs.by_group)


def _why_no_ops() -> str | None:
    """Why the graph being built may not hold ops that only our package knows; None if it may."""
    if is_confined():
        return "what is being built is compiled by XLA, or is a loop of TensorFlow 1"
    if in_wrapped_function():
        return "wrap_function imports what it builds again, and the standard form of our ops would not be the same"
    if is_laid_open():
        return "in a condition inside a layer of Keras 2, TensorFlow differentiates each op, and ours have no gradients"
    if isinstance(tf.distribute.get_strategy(), tf.distribute.ParameterServerStrategy):
        return "other processes of a parameter server run what is being built, and may not have them"
    return None


def _ghost_attributes(ghost: Ghost | None) -> dict[str, int]:
    if ghost is None:
        return {"ghost_order": 0, "ghost_size": 0}
    (order,) = (number for number, name in GHOST_ORDERS.items() if name == ghost.order)
    return {"ghost_order": order, "ghost_size": ghost.size}


def slower_reason(x: Tensor) -> str | None:
    del x
    return None


def plain_step(x: Tensor, layout: Layout) -> Path | None:
    del x, layout
    return None


def at_inference(x: Tensor, layout: Layout) -> tuple[Path, str | None]:
    why = "inference uses TensorFlow's standard operations, which exported graphs may contain"
    return "framework" if is_image(x, layout) else "composed", why


def running() -> tuple[str | None, int]:
    return _kernels.instructions(), threads()
