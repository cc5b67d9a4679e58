"""Activations behind a step, as operations of their own: in a TensorFlow 1 graph the step's gradient takes theirs over.

Programs look such an operation up by its name and its type, and ask for the gradient before it, so it stays. But if
TensorFlow has made its gradient and gives it to ours alone, ours can start behind it: the kernel computes both in one
pass, and TensorFlow's gradient of the activation runs only if something else needs it.
"""

from typing import Any, NamedTuple

from batchnorm.activation import Activation

__all__ = ["through_activation"]

Tensor = Any


class _Gradient(NamedTuple):
    """An operation for the gradient of an activation, and which of its inputs are what.

    `by` is the result of the activation, an operation of the type `forward`; or, without one, what it was applied to.
    """

    name: str
    upstream: int
    by: int
    forward: str | None


GRADIENTS = {
    "ReluGrad": _Gradient("relu", 0, 1, "Relu"),
    "Relu6Grad": _Gradient("relu6", 0, 1, "Relu6"),
    "LeakyReluGrad": _Gradient("leaky_relu", 0, 1, None),
    "SigmoidGrad": _Gradient("sigmoid", 1, 0, "Sigmoid"),
    "TanhGrad": _Gradient("tanh", 1, 0, "Tanh"),
}


def through_activation(dy: Tensor, y: Tensor) -> tuple[Tensor, Activation | None]:
    """The gradient of act(y), and act, if dy is that gradient taken through a known activation; else dy and None."""
    known = GRADIENTS.get(dy.op.type)
    if known is None or dy.graph is not y.graph:
        return dy, None
    before = dy.op.inputs[known.by]
    if known.forward is not None:
        if before.op.type != known.forward:
            return dy, None
        before = before.op.inputs[0]
    while before.op.type == "Identity":
        before = before.op.inputs[0]
    if before is not y:
        return dy, None
    slope = dy.op.get_attr("alpha") if known.name == "leaky_relu" else None
    return dy.op.inputs[known.upstream], Activation(known.name, slope)
