"""The composed passes on NumPy arrays, of reference grade in float64.

NumPy differentiates nothing, so `differentiable` is the forward pass; `pullback` gives the gradient on request.
"""

from collections.abc import Callable
from typing import Any

from batchnorm._core.composed import Composed
from batchnorm._core.engine import Batch, Engine, Gradients, Inputs
from batchnorm._core.gradient import backward
from batchnorm._core.padding import fill, is_filled, without_padding
from batchnorm._core.step import normalize
from batchnorm._engines.numpy import ops
from batchnorm.layout import Layout
from batchnorm.options import Options

__all__ = ["composed", "forward_only", "pullback"]


def forward_only(forward: Callable[..., Any], *derivatives: object) -> Callable[..., Any]:
    """The forward pass as it is."""
    del derivatives
    return lambda inputs: forward(inputs)[:2]


composed: Composed[Any] = Composed(ops, forward_only, lambda values: values)


def pullback(
    options: Options, layout: Layout, inputs: Inputs[Any], engine: Engine[Any] = composed
) -> tuple[Any, Batch[Any], Callable[[Any], Gradients[Any]]]:
    """y, the batch's statistics, and the function from ∂L/∂y to the gradients of the inputs."""
    if is_filled(layout):
        return _filled_pullback(options, layout, inputs, engine)
    y, batch, saved = normalize(engine, options, layout, inputs)
    return y, batch, lambda dy: backward(engine, options, layout, inputs, saved, dy)


def _filled_pullback(
    options: Options, layout: Layout, inputs: Inputs[Any], engine: Engine[Any]
) -> tuple[Any, Batch[Any], Callable[[Any], Gradients[Any]]]:
    """The same for a padded batch; the added examples are cut off again."""
    count = ops.shape(inputs.x)[0]
    filled, _ = fill(engine.ops, layout, inputs)
    y, batch, pull_filled = pullback(options, without_padding(layout), filled, engine)

    def cut(found: Gradients[Any]) -> Gradients[Any]:
        residual = None if found.residual is None else ops.first(found.residual, count)
        return found._replace(x=ops.first(found.x, count), residual=residual)

    def gradients(dy: Any) -> Gradients[Any]:
        found = pull_filled(ops.append_zeros(dy, layout.padding))
        if inputs.weights is None:
            return cut(found)._replace(weights=None)
        dw = ops.first(found.weights, count)
        if inputs.weights.shape[0] == 1:
            dw = dw.sum(0, keepdims=True)
        return cut(found)._replace(weights=dw)

    return ops.first(y, count), batch, gradients
