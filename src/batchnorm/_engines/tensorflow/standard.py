"""What each of our ops does, in TensorFlow's own operations: the functions that stand for them in written graphs.

Each maps an op's attributes, its layout and its inputs to its outputs, by the composed passes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from batchnorm._core import fused
from batchnorm._core.affine import shift_of
from batchnorm._core.composed import pull_through
from batchnorm._core.engine import Epilogue, GradTerms, Moments
from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.attributes import activation_by, from_bits
from batchnorm._engines.tensorflow.composed import composed
from batchnorm._engines.tensorflow.inference import fused_infer, infer_gradients
from batchnorm.layout import Layout

__all__ = ["AFTER_DY", "FUNCTIONS", "PREFIX"]

Tensor = Any
PREFIX = "BatchnormKernels"

# Whose first input is dy; that of the others is x.
AFTER_DY = {
    f"{PREFIX}{name}"
    for name in ("GradSums", "GradInput", "Gradients", "PlainGradients", "PlainInferGradients")
}


def _moments(_: Any, layout: Layout, x: Tensor, *weights: Tensor) -> Any:
    moments = composed.moments(x, _weights(weights, layout), layout)
    totals = (
        ops.broadcast_to(value, (layout.ghosts, 1)) for value in (moments.total, moments.effective_count)
    )
    return *totals, *_statistics(moments)


def _apply(
    attributes: Any, layout: Layout, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, *residual: Tensor
) -> Any:
    return [composed.apply(x, mean, scale, shift, layout, _epilogue(attributes, residual))]


def _train(attributes: Any, layout: Layout, x: Tensor, *parameters: Tensor) -> Any:
    gamma, beta, residual = _parameters(attributes, parameters)
    epilogue = _epilogue(attributes, residual)
    y, moments, scale = fused.train(composed, x, gamma, beta, _epsilon(attributes), layout, epilogue)
    return y, *_statistics(moments), scale


def _parameters(
    attributes: Any, given: Sequence[Tensor]
) -> tuple[Tensor | None, Tensor | None, list[Tensor]]:
    """gamma and beta, each None if the op does not have it, and what follows them."""
    rest = list(given)
    gamma = rest.pop(0) if attributes["gamma_types"].list.type else None
    beta = rest.pop(0) if attributes["beta_types"].list.type else None
    return gamma, beta, rest


def _epsilon(attributes: Any) -> float:
    return from_bits(attributes["epsilon_bits"].i)


def _epilogue(attributes: Any, residual: Sequence[Tensor], *line: Tensor) -> Epilogue[Tensor]:
    """What follows the affine map. `line` is scale and shift, for the gradient."""
    # Nodes of earlier versions have no such attributes, and those missing are 0.
    activation = activation_by(attributes["activation"].i, attributes["slope_bits"].i)
    return Epilogue(activation, residual[0] if residual else None, *line)


def _plain_train(attributes: Any, layout: Layout, x: Tensor, *parameters: Tensor) -> Any:
    y, *statistics = _train(attributes, layout, x, *parameters)
    mean, rest, variance, scale = (ops.reshape(value, (layout.channels,)) for value in statistics)
    total = tf.fill(tf.shape(mean), ops.as_float(layout.count, mean.dtype))
    stored = variance
    if attributes["of_sample"].i:
        stored = variance * tf.math.divide_no_nan(total, total - 1)
    return y, mean, rest, variance, scale, tf.stack([mean, stored, total])


def _plain_infer(
    attributes: Any, layout: Layout, x: Tensor, mean: Tensor, variance: Tensor, *parameters: Tensor
) -> Any:
    gamma, beta, _ = _parameters(attributes, parameters)
    return [fused_infer(x, gamma, beta, mean, variance, _epsilon(attributes), layout)]


def _statistics(moments: Moments[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, rest and variance as the kernels return them: the rounded mean, and the rest lost in rounding it."""
    rest = (moments.center - moments.mean) + moments.offset
    return moments.mean, rest, moments.variance


def _grad_sums(
    attributes: Any, layout: Layout, dy: Tensor, x: Tensor, mean: Tensor, *activated: Tensor
) -> Any:
    if not activated:
        return composed.grad_sums(dy, x, mean, layout)
    scale, shift, *residual = activated
    epilogue = _epilogue(attributes, residual, scale, shift)
    return _kept(attributes, *composed.pulled_sums(dy, x, mean, layout, epilogue, True))


def _kept(attributes: Any, *outputs: Tensor) -> Any:
    """The outputs, the last of which is h, which an op may not have."""
    return outputs if attributes["keeps"].i else outputs[:-1]


def _grad_input(
    attributes: Any,
    layout: Layout,
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    slope: Tensor,
    tilt: Tensor,
    offset: Tensor,
    *rest: Tensor,
) -> Any:
    terms = GradTerms(slope, tilt, offset)
    number = len(attributes["weight_types"].list.type)
    weights, shift = _weights(rest[:number], layout), rest[number:]
    epilogue = _epilogue(attributes, [], slope, shift[0]) if shift else None
    return [composed.grad_input(dy, x, weights, mean, terms, layout, epilogue)]


def _gradients(attributes: Any, layout: Layout, dy: Tensor, x: Tensor, *saved: Tensor) -> Any:
    center, offset, variance, scale, *activated = saved
    h = dy
    if activated:
        shift, *residual = activated
        h = pull_through(ops, dy, x, center, layout, _epilogue(attributes, residual, scale, shift))
    outputs = fused.gradients(composed, h, x, center, offset, variance, scale, _epsilon(attributes), layout)
    return _kept(attributes, *outputs, ops.cast(h, x.dtype))


def _plain_gradients(attributes: Any, layout: Layout, dy: Tensor, x: Tensor, *given: Tensor) -> Any:
    saved, parameters = given[:4], given[4:]
    if attributes["activation"].i:
        _, beta, _ = _parameters(attributes, parameters)
        _, offset, _, scale = saved
        saved = *saved, shift_of(ops, scale, offset, None, None, beta, layout)
    dx, *sums = _gradients(attributes, layout, dy, x, *saved)
    return dx, *(ops.reshape(value, (layout.channels,)) for value in sums)


def _plain_infer_gradients(
    attributes: Any, layout: Layout, dy: Tensor, x: Tensor, mean: Tensor, variance: Tensor, *gamma: Tensor
) -> Any:
    epsilon = _epsilon(attributes)
    return infer_gradients(dy, x, gamma[0] if gamma else None, mean, variance, epsilon, layout)


def _weights(weights: Sequence[Tensor], layout: Layout) -> Tensor | None:
    """Weights that are known to be the same for all channels."""
    return ops.reshape(weights[0], layout.weight_shape) if weights else None


FUNCTIONS: dict[str, Callable[..., Any]] = {
    f"{PREFIX}Moments": _moments,
    f"{PREFIX}Apply": _apply,
    f"{PREFIX}Train": _train,
    f"{PREFIX}GradSums": _grad_sums,
    f"{PREFIX}GradInput": _grad_input,
    f"{PREFIX}Gradients": _gradients,
    f"{PREFIX}PlainTrain": _plain_train,
    f"{PREFIX}PlainGradients": _plain_gradients,
    f"{PREFIX}PlainInfer": _plain_infer,
    f"{PREFIX}PlainInferGradients": _plain_infer_gradients,
}
