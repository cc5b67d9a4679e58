"""The composed passes on NumPy arrays, of reference grade in float64.

NumPy differentiates nothing, so `differentiable` is the forward pass; `pullback` gives the gradient on request.
"""

from collections.abc import Callable
from typing import Any

from batchnorm._core.gradient import pull
from batchnorm._core.step import normalize
from batchnorm._engines.composed import Composed
from batchnorm._engines.numpy import ops
from batchnorm._engines.protocol import Batch, Engine, Gradients, Inputs
from batchnorm.layout import Layout
from batchnorm.options import Options

__all__ = ["engine", "forward_only", "pullback"]


def forward_only(forward: Callable[..., Any], backward: object, reference: object) -> Callable[..., Any]:
    """The forward pass as it is."""
    del backward, reference
    return lambda inputs: forward(inputs)[:2]


engine: Composed[Any] = Composed(ops, forward_only, lambda values: values)  # pyright: ignore[reportArgumentType]


def pullback(
    options: Options, layout: Layout, inputs: Inputs[Any], engine: Engine[Any] = engine
) -> tuple[Any, Batch[Any], Callable[[Any], Gradients[Any]]]:
    """y, the batch's statistics, and the function from ∂L/∂y to the gradients of the inputs."""
    y, batch, saved = normalize(engine, options, layout, inputs)
    return y, batch, lambda dy: pull(engine, options, layout, inputs, saved, dy)
