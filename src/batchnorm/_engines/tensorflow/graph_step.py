"""A plain training step as one op in a TensorFlow 1 graph, whose gradient is registered with TensorFlow.

Such a graph runs node by node, so that each node around the op costs time at small sizes.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import tensorflow as tf

from batchnorm._core import fused
from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.composed import composed
from batchnorm._engines.tensorflow.context import is_function
from batchnorm._engines.tensorflow.custom_ops import epsilon_bits, epsilon_of, large, layout_of, statistic
from batchnorm._engines.tensorflow.dispatch import find
from batchnorm._kernels.tensorflow import load
from batchnorm.layout import Layout

__all__ = ["plain_step"]

Tensor = Any


def plain_step(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, layout: Layout
) -> tuple[Tensor, Tensor, Tensor] | None:
    """y, and the mean and variance of each channel, in one op of a TensorFlow 1 graph; its gradient is registered."""
    if tf.executing_eagerly() or is_function() or layout.ghosts != 1:
        return None
    kernels = find(x, None, layout)
    if kernels is None:
        return None
    done = kernels.ops.batchnorm_kernels_train(
        x,
        [] if gamma is None else [gamma],
        [] if beta is None else [beta],
        U=ops.stat_dtype(x),
        epsilon_bits=epsilon_bits(epsilon),
        **kernels.attributes,
    )
    mean, variance = (
        tf.raw_ops.Squeeze(input=statistic(value, layout), axis=[0]) for value in (done.mean, done.variance)
    )
    return large(done.y, layout), mean, variance


def _plain_gradient(op: Any, dy: Tensor, *_: Tensor) -> Any:
    """The gradient of `plain_step`. The statistics have none, as they feed nothing but the moving averages."""
    attributes = {name: op.get_attr(name) for name in ("bounds", "ghost_order", "ghost_size", "epsilon_bits")}
    # A derivative of this gradient can reach into the graph of the gradient, but no further.
    x, *parameters = (_here(value) for value in op.inputs)
    with_gamma = bool(op.get_attr("gamma_types"))
    with_beta = len(parameters) > with_gamma

    def first_order(dy: Tensor, x: Tensor, *parameters: Tensor) -> Any:
        dx, *sums = load().batchnorm_kernels_gradients(dy, x, *op.outputs[1:], **attributes)
        dbeta, dgamma = (tf.raw_ops.Squeeze(input=value, axis=[0]) for value in sums)
        found = [dx, *([dgamma] if with_gamma else []), *([dbeta] if with_beta else [])]
        return found, lambda *upstream: second_order(upstream, dy, x, *parameters)

    def second_order(upstream: Sequence[Tensor], *sources: Tensor) -> list[Tensor | None]:
        dy, x, *parameters = sources = tuple(tf.identity(source) for source in sources)
        rest = list(parameters)
        gamma = rest.pop(0) if with_gamma else None
        beta = rest.pop(0) if with_beta else None
        layout, epsilon = layout_of(x, **attributes), epsilon_of(attributes["epsilon_bits"])
        _, moments, scale = fused.train(composed, x, gamma, beta, epsilon, layout)
        known = moments.center, moments.offset, moments.variance, scale
        dx, dbeta, dgamma = fused.gradients(composed, dy, x, *known, epsilon, layout)
        sums = [*([dgamma] if with_gamma else []), *([dbeta] if with_beta else [])]
        targets = [dx, *(ops.reshape(value, (layout.channels,)) for value in sums)]
        return tf.gradients(targets, list(sources), grad_ys=list(upstream))

    found = tf.custom_gradient(first_order)(dy, x, *parameters)
    return list(found) if isinstance(found, (list, tuple)) else [found]


# A second registration fails if this module is reloaded.
with suppress(KeyError):
    tf.RegisterGradient("BatchnormKernelsTrain")(_plain_gradient)


def _here(value: Tensor) -> Tensor:
    """The same, as a tensor of the graph that is being built."""
    return value if value.graph is tf.compat.v1.get_default_graph() else tf.identity(value)
