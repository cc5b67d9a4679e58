"""Our own gradient for JAX, in forward and reverse mode and to any order, from the core's one formula.

The core's `backward` maps ∂L/∂y to the gradients of the inputs. It is linear, and its transpose maps tangents of the
inputs to the tangent of y:

    ẏ = Jᵀᵀ·(ẋ, γ̇, β̇, ẇ)      where `backward` is dy ↦ Jᵀ·dy

So the rule that JAX is given is forward-mode, with JAX itself transposing `backward`; and when reverse mode transposes
the rule, `backward` comes out again, operation by operation. Higher orders differentiate the rule.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from batchnorm._core.engine import Batch, Gradients, Inputs, Saved
from batchnorm._engines.jax.sharded import as_varying, sharded_by_compiler, varying_axes

__all__ = ["differentiable"]

Array = Any


def differentiable(
    forward: Callable[[Inputs[Array]], tuple[Array, Batch[Array], Saved[Array]]],
    backward: Callable[[Inputs[Array], Saved[Array], Array], Gradients[Array]],
    reference: Callable[[Inputs[Array], Array], Gradients[Array]],
    forward_mode: object = None,
) -> Callable[[Inputs[Array]], tuple[Array, Batch[Array]]]:
    """`forward` with the gradient `backward`; JAX can differentiate all passes, so the rest is not needed."""
    del reference, forward_mode

    @jax.custom_jvp
    def step(inputs: Inputs[Array]) -> tuple[Array, Batch[Array]]:
        return forward(inputs)[:2]

    @step.defjvp
    def rule(primals: Any, tangents: Any) -> Any:  # pyright: ignore[reportUnusedFunction]
        (inputs,), (moved,) = primals, tangents
        y, batch, saved = forward(inputs)

        def push(inputs: Inputs[Array], arrays: Saved[Array], tangents: tuple[Array, ...]) -> Array:
            # A known count stays a number.
            kept = arrays._replace(total=saved.total) if isinstance(saved.total, float) else arrays

            def pull(dy: Array) -> tuple[Array, ...]:
                return _present(_as_given(inputs, backward(inputs, kept, dy)))

            if varying_axes(y):
                types = jax.eval_shape(pull, y)
                tangents = tuple(as_varying(*pair) for pair in zip(tangents, types, strict=True))
            return jax.linear_transpose(pull, y)(tangents)[0]

        # Between the passes x is kept, rather than each product of x that the transposition multiplies by.
        tangent = jax.checkpoint(push, prevent_cse=False)(inputs, saved, _present(moved))
        # No gradient flows through the moving averages.
        return (y, batch), (tangent, jax.tree.map(_zero_tangent, batch))

    def with_constants(inputs: Inputs[Array]) -> tuple[Array, Batch[Array]]:
        constants = jax.lax.stop_gradient((inputs.state, inputs.scalars))
        inputs = inputs._replace(state=constants[0], scalars=constants[1])
        return sharded_by_compiler(step, inputs, with_statistics=True)

    return with_constants


def _present(values: Any) -> tuple[Array, ...]:
    """What has a gradient, without what is None."""
    found = (getattr(values, name) for name in Gradients._fields)
    return tuple(value for value in found if value is not None)


def _as_given(inputs: Inputs[Array], gradients: Gradients[Array]) -> Gradients[Array]:
    """Each gradient in the dtype of its input, as a transposition demands."""
    pairs: Any = ((getattr(inputs, name), getattr(gradients, name)) for name in Gradients._fields)
    return Gradients(*(None if value is None else value.astype(given.dtype) for given, value in pairs))


def _zero_tangent(value: Array) -> Array:
    """A zero tangent, which for booleans (`Batch.has_weight`) has a dtype of its own."""
    if jnp.issubdtype(value.dtype, jnp.inexact):
        return jnp.zeros_like(value)
    return jnp.zeros(value.shape, jax.dtypes.float0)
