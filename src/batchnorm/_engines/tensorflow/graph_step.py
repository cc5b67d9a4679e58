"""Steps without options, each as one op in a TensorFlow 1 graph; their gradients are registered with TensorFlow.

Such a graph runs node by node, so each node around an op costs time at small sizes.
"""

from contextlib import suppress
from typing import Any

import tensorflow as tf

from batchnorm._core import fused
from batchnorm._core.affine import shift_of
from batchnorm._core.composed import pull_through
from batchnorm._core.engine import Epilogue
from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.activated import through_activation
from batchnorm._engines.tensorflow.attributes import (
    activation_attributes,
    activation_by,
    from_bits,
    layout_of,
    to_bits,
)
from batchnorm._engines.tensorflow.autodiff import near
from batchnorm._engines.tensorflow.composed import composed
from batchnorm._engines.tensorflow.custom_ops import large
from batchnorm._engines.tensorflow.dispatch import Kernels
from batchnorm._engines.tensorflow.inference import infer_gradients
from batchnorm._kernels.tensorflow import load
from batchnorm.layout import Layout

__all__ = ["infer", "train"]

Tensor = Any


def train(
    kernels: Kernels,
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    epsilon: float,
    of_sample: bool,
    layout: Layout,
) -> tuple[Tensor, Tensor]:
    """A training step: y, and what the moving averages take, [3, C]. gamma and beta, if any, are [C].

    The averages take the mean, the variance (times N / (N − 1) if `of_sample`) and N.
    """
    done = kernels.ops.batchnorm_kernels_plain_train(
        x,
        _listed(gamma),
        _listed(beta),
        U=ops.stat_dtype(x),
        epsilon_bits=to_bits(epsilon),
        of_sample=int(of_sample),
        **kernels.attributes,
    )
    done.mean.set_shape([layout.channels])
    done.averages.set_shape([3, layout.channels])
    return large(done.y, layout), done.averages


def infer(
    kernels: Kernels,
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
    layout: Layout,
) -> Tensor:
    """y by given statistics, which are [C], as are gamma and beta."""
    y = kernels.ops.batchnorm_kernels_plain_infer(
        x,
        mean,
        variance,
        _listed(gamma),
        _listed(beta),
        epsilon_bits=to_bits(epsilon),
        **kernels.attributes,
    )
    return large(y, layout)


def _listed(value: Tensor | None) -> list[Tensor]:
    return [] if value is None else [value]


def _train_gradient(op: Any, dy: Tensor, *_: Tensor) -> list[Tensor]:
    """The gradient of `train`. The statistics have none, as they feed nothing but the moving averages."""
    # A derivative of this gradient can reach into the graph of the gradient, but no further.
    dy, activation = through_activation(dy, op.outputs[0])
    x, *parameters = (near(value) for value in op.inputs)
    number = len(op.get_attr("gamma_types"))
    gamma, beta = parameters[:number], parameters[number:]
    dx, dbeta, dgamma = load().batchnorm_kernels_plain_gradients(
        dy,
        x,
        *op.outputs[1:5],
        gamma,
        [] if activation is None else beta,
        epsilon_bits=op.get_attr("epsilon_bits"),
        **activation_attributes(activation),
        **_runs_of(op),
    )
    for value in (dbeta, dgamma):
        value.set_shape(op.outputs[1].shape)
    dx.set_shape(x.shape)
    return [dx, *([dgamma] if gamma else []), *([dbeta] if beta else [])]


def _train_second_gradient(op: Any, *upstream: Tensor) -> list[Tensor | None]:
    """The gradient of that gradient. It goes to dy, x, gamma and beta, as the statistics are computed from x."""
    sources = [tf.identity(near(value)) for value in (*op.inputs[:2], *op.inputs[6:])]
    dy, x, *parameters = sources
    number = len(op.get_attr("gamma_types"))
    gamma, beta = (part[0] if part else None for part in (parameters[:number], parameters[number:]))
    layout, epsilon = layout_of(x, **_runs_of(op)), from_bits(op.get_attr("epsilon_bits"))
    _, moments, scale = fused.train(composed, x, gamma, None, epsilon, layout)
    activation = activation_by(op.get_attr("activation"), op.get_attr("slope_bits"))
    if activation is not None:
        shift = shift_of(ops, scale, moments.offset, None, gamma, beta, layout)
        dy = pull_through(ops, dy, x, moments.center, layout, Epilogue(activation, None, scale, shift))
    known = moments.center, moments.offset, moments.variance, scale
    dx, *sums = fused.gradients(composed, dy, x, *known, epsilon, layout)
    targets = [dx, *(ops.reshape(value, (layout.channels,)) for value in sums)]
    found = tf.gradients(targets, sources, grad_ys=list(upstream))
    return [*found[:2], None, None, None, None, *found[2:]]


def _infer_gradient(op: Any, dy: Tensor) -> list[Tensor]:
    """The gradient of `infer` with respect to all its inputs."""
    x, mean, variance, *parameters = (near(value) for value in op.inputs)
    gamma = parameters[: len(op.get_attr("gamma_types"))]
    attributes = {"epsilon_bits": op.get_attr("epsilon_bits"), **_runs_of(op)}
    dx, dbeta, dgamma, *rest = load().batchnorm_kernels_plain_infer_gradients(
        dy, x, mean, variance, gamma, **attributes
    )
    dx.set_shape(x.shape)
    for value in (dbeta, dgamma, *rest):
        value.set_shape(mean.shape)
    return [dx, *rest, *([dgamma] if gamma else []), *([dbeta] if op.get_attr("beta_types") else [])]


def _infer_second_gradient(op: Any, *upstream: Tensor) -> list[Tensor | None]:
    """The gradient of that gradient."""
    dy, x, mean, variance, *gamma = sources = [tf.identity(near(value)) for value in op.inputs]
    layout, epsilon = layout_of(x, **_runs_of(op)), from_bits(op.get_attr("epsilon_bits"))
    targets = infer_gradients(dy, x, gamma[0] if gamma else None, mean, variance, epsilon, layout)
    return tf.gradients(targets, sources, grad_ys=list(upstream))


def _runs_of(op: Any) -> dict[str, Any]:
    return {name: op.get_attr(name) for name in ("bounds", "ghost_order", "ghost_size")}


# A second registration fails if this module is reloaded.
with suppress(KeyError):
    tf.RegisterGradient("BatchnormKernelsPlainTrain")(_train_gradient)
    tf.RegisterGradient("BatchnormKernelsPlainGradients")(_train_second_gradient)
    tf.RegisterGradient("BatchnormKernelsPlainInfer")(_infer_gradient)
    tf.RegisterGradient("BatchnormKernelsPlainInferGradients")(_infer_second_gradient)
