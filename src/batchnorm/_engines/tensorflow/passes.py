"""The TensorFlow engine: each pass by our ops, compiled by XLA or in plain operations, as `dispatch` decides."""

from dataclasses import dataclass
from numbers import Real
from typing import Any

from batchnorm._core.composed import Composed
from batchnorm._core.engine import Epilogue, GradTerms, Moments, Saved
from batchnorm._core.epilogue import follow
from batchnorm._engines.tensorflow import custom_ops, ops
from batchnorm._engines.tensorflow.compiled import compiled
from batchnorm._engines.tensorflow.composed import PlainOperations, composed
from batchnorm._engines.tensorflow.dispatch import find, takes_compiled
from batchnorm._engines.tensorflow.inference import fused_infer
from batchnorm.layout import Layout

__all__ = ["engine"]

Tensor = Any


@dataclass(frozen=True)
class TensorFlow(PlainOperations):
    """Inference is TensorFlow's own operation."""

    @property
    def composed(self) -> Composed[Any]:
        return composed

    def moments(self, x: Tensor, weights: Tensor | None, layout: Layout) -> Moments[Tensor]:
        kernels = find(x, weights, layout)
        if kernels is not None:
            return custom_ops.moments(kernels, x, weights, layout)
        return _other_passes(x).moments(x, weights, layout)

    def apply(
        self,
        x: Tensor,
        mean: Tensor,
        scale: Tensor,
        shift: Tensor,
        layout: Layout,
        epilogue: Epilogue[Tensor] | None = None,
    ) -> Tensor:
        kernels = find(x, None, layout)
        if kernels is not None:
            return custom_ops.apply(kernels, x, mean, scale, shift, layout, epilogue)
        return _other_passes(x).apply(x, mean, scale, shift, layout, epilogue)

    def grad_sums(self, dy: Tensor, x: Tensor, mean: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        kernels = find(x, None, layout)
        if kernels is not None:
            return custom_ops.grad_sums(kernels, dy, x, mean, layout)
        return _other_passes(x).grad_sums(dy, x, mean, layout)

    def pulled_sums(
        self, dy: Tensor, x: Tensor, mean: Tensor, layout: Layout, epilogue: Epilogue[Tensor], keep: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        kernels = find(x, None, layout)
        if kernels is not None:
            return custom_ops.pulled_sums(kernels, dy, x, mean, layout, epilogue, keep)
        return _other_passes(x).pulled_sums(dy, x, mean, layout, epilogue, keep)

    def grad_input(
        self,
        dy: Tensor,
        x: Tensor,
        weights: Tensor | None,
        mean: Tensor,
        terms: GradTerms[Tensor],
        layout: Layout,
        epilogue: Epilogue[Tensor] | None = None,
    ) -> Tensor:
        kernels = find(x, weights, layout)
        if kernels is not None:
            return custom_ops.grad_input(kernels, dy, x, weights, mean, terms, layout, epilogue)
        return _other_passes(x).grad_input(dy, x, weights, mean, terms, layout, epilogue)

    def fused_train(
        self,
        x: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        epsilon: Any,
        layout: Layout,
        epilogue: Epilogue[Tensor] | None = None,
    ) -> tuple[Tensor, Moments[Tensor], Tensor] | None:
        # One call takes epsilon as an attribute.
        kernels = find(x, None, layout) if isinstance(epsilon, Real) else None
        if kernels is None:
            return None
        return custom_ops.fused_train(kernels, x, gamma, beta, float(epsilon), layout, epilogue)

    def fused_gradients(
        self,
        dy: Tensor,
        x: Tensor,
        saved: Saved[Tensor],
        epsilon: Any,
        layout: Layout,
        epilogue: Epilogue[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None] | None:
        kernels = find(x, None, layout) if isinstance(epsilon, Real) else None
        if kernels is None:
            return None
        return custom_ops.fused_gradients(kernels, dy, x, saved, float(epsilon), layout, epilogue)

    def fused_infer(
        self,
        x: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        epsilon: float,
        layout: Layout,
        epilogue: Epilogue[Tensor] | None = None,
    ) -> Tensor:
        if epilogue is None:
            return fused_infer(x, gamma, beta, mean, variance, epsilon, layout)
        # What is added may cancel digits: TensorFlow's operation must not round to 16 bits before.
        wide = ops.cast(x, ops.stat_dtype(x))
        y = follow(ops, fused_infer(wide, gamma, beta, mean, variance, epsilon, layout), epilogue)
        return ops.cast(y, ops.dtype(x))


def _other_passes(x: Tensor) -> Composed[Any]:
    """What computes a pass that our ops cannot take."""
    return compiled if takes_compiled(x) else composed


engine = TensorFlow(composed.ops, composed.differentiate, composed.add_up)
