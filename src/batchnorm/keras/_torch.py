"""The layer on PyTorch: its engine, and plain steps in few calls.

Keras' general way to read a variable, find its dtype and assign to it takes longer than the arithmetic on small inputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from batchnorm._core.engine import Batch, Inputs
from batchnorm._core.moments import bessel
from batchnorm._core.padding import is_filled
from batchnorm._engines.torch import cpu_kernels, engine, numpy_stats, recompute
from batchnorm._engines.torch.aten import FLOATS
from batchnorm._engines.torch.fused_step import train_natively
from batchnorm._engines.torch.inference import for_gradient, infer
from batchnorm._engines.torch.ops import stat_dtype
from batchnorm.keras._backend import StaticBackend
from batchnorm.keras.private import in_stateless_scope
from batchnorm.layout import Layout
from batchnorm.options import Options

__all__ = ["backend"]

Tensor = torch.Tensor


@dataclass(frozen=True)
class TorchBackend(StaticBackend):
    """Plain steps in few calls, on the variables' own memory."""

    def is_compiling(self) -> bool:
        return torch.compiler.is_compiling()

    def assign(self, variable: Any, value: Tensor) -> None:
        """Assign a value of the variable's shape to it, or hand it to the stateless call that collects it."""
        if in_stateless_scope():
            variable.assign(value)
        else:
            with torch.no_grad():
                variable.value.copy_(value)

    def recall(self, layer: Any, inputs: Inputs[Tensor]) -> Inputs[Tensor]:
        """The inputs with the state that the step must read: that of its first run if a checkpoint runs it again."""
        state, _ = recompute.recall(layer, (dict(inputs.state), None))
        return inputs._replace(state=state)

    def advance(
        self, options: Options, variables: Mapping[str, Any], batch: Batch[Tensor], dtype: torch.dtype
    ) -> bool:
        """Move the moving statistics in place by NumPy's arithmetic, if they are numbers in the memory of the CPU.

        True if nothing is left to do: they have moved, or must stay as they are.
        """
        if recompute.is_frozen():
            return True
        values: dict[str, Tensor] = {slot: variable.value for slot, variable in variables.items()}
        if in_stateless_scope() or any(each.dtype is not dtype for each in values.values()):
            return False
        return numpy_stats.advance(options, {slot: _flat(value) for slot, value in values.items()}, batch)

    def train_plainly(self, layer: Any, options: Options, layout: Layout, x: Tensor) -> Tensor | None:
        """A step without weights, renorm, adjustment and replicas by the CPU kernels, which move the averages as well.

        None if they cannot be used; nothing has changed then.
        """
        if (
            options.renorm is not None
            or options.activation is not None
            or options.synchronized
            or options.debias_mean
            or options.fused is False
        ):
            return None
        if is_filled(layout) or (options.ghost is not None and options.ghost.averages == "group"):
            return None
        dtype = stat_dtype(x)
        averages: list[Tensor] = [layer.moving_mean.value, layer.moving_variance.value]
        if in_stateless_scope() or any(each.dtype is not dtype for each in averages):
            return None
        gamma, beta = _read(layer.gamma, dtype), _read(layer.beta, dtype)
        done = train_natively(x, gamma, beta, options.epsilon, layout)
        if done is None:
            return None
        y, statistics = done
        if not recompute.is_frozen():
            factor: Any = (
                bessel(self.engine.ops, float(layout.count)) if options.variance == "sample" else 1.0
            )
            moving_mean, moving_variance = map(_flat, averages)
            cpu_kernels.move_averages((moving_mean, moving_variance), statistics, factor, 1.0 - options.decay)
        return y

    def infer_plainly(
        self, layer: Any, options: Options, layout: Layout, x: Tensor, residual: Tensor | None
    ) -> Tensor | None:
        """Inference by PyTorch's operation for it; None if it cannot be used."""
        if options.fused is False or options.activation is not None or residual is not None:
            return None
        dtype = stat_dtype(x)
        gamma, beta = _read(layer.gamma, dtype), _read(layer.beta, dtype)
        mean, variance = _read(layer.moving_mean, dtype), _read(layer.moving_variance, dtype)
        if layout.axes == (1,) and x.dtype in FLOATS:
            # As the operation requires, in whatever order the axes lie in memory.
            return infer(layer, x, gamma, beta, mean, variance, options.epsilon)  # pyright: ignore[reportArgumentType]
        mean, variance = for_gradient((mean, variance), x, gamma, beta)  # pyright: ignore[reportArgumentType]
        return self.engine.fused_infer(x, gamma, beta, mean, variance, options.epsilon, layout)


def _read(variable: Any, dtype: torch.dtype) -> Tensor | None:
    """What a variable holds now, flat and in the statistics' dtype."""
    if variable is None:
        return None
    value: Tensor = variable.value
    return _flat(value if value.dtype is dtype else value.to(dtype))


def _flat(value: Tensor) -> Tensor:
    """The same numbers in the same memory; a scalar stays one."""
    return value if value.dim() <= 1 else value.view(-1)


backend = TorchBackend(engine)
