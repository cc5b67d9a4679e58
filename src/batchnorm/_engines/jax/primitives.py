"""The engine whose passes are primitives on the CPU kernels (`csrc/`) where these can be used.

Those that are linear in what gradients flow through come in pairs, each the other's transpose, since JAX finds reverse
mode by transposing forward mode, which here is itself the transpose of the core's gradient: the same passes come out.
"""

from dataclasses import dataclass
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp

from batchnorm._core import fused
from batchnorm._core.composed import pull_through
from batchnorm._core.engine import Epilogue, GradTerms, Moments, Saved
from batchnorm._engines.jax import ops
from batchnorm._engines.jax.autodiff import differentiable
from batchnorm._engines.jax.dispatch import takes_kernels
from batchnorm._engines.jax.passes import Fusing
from batchnorm._engines.jax.primitive import Plan, define, linear_in
from batchnorm.layout import Layout

__all__ = ["Native"]

Array = Any

# The plain operations that the kernels replace.
_plain: Any = Fusing(ops, differentiable, lambda values: values)


def _moments(plan: Plan, x: Array, *weights: Array) -> tuple[Array, ...]:
    total, effective, _, variance, center, offset = _plain.moments(x, *plan.fill(weights), plan.layout)
    dtype, shape = ops.stat_dtype(x), (plan.layout.ghosts, 1)
    totals = (jnp.broadcast_to(jnp.asarray(each, dtype), shape) for each in (total, effective))
    return *totals, center, offset, variance


def _apply(plan: Plan, x: Array, mean: Array, scale: Array, shift: Array) -> tuple[Array]:
    return (_plain.apply(x, mean, scale, shift, plan.layout),)


def _grad_sums(plan: Plan, dy: Array, x: Array, mean: Array) -> tuple[Array, Array]:
    return _plain.grad_sums(dy, x, mean, plan.layout)


def _grad_input(
    plan: Plan, dy: Array, x: Array, mean: Array, slope: Array, tilt: Array, offset: Array, *weights: Array
) -> tuple[Array]:
    terms = GradTerms(slope, tilt, offset)
    return (_plain.grad_input(dy, x, *plan.fill(weights), mean, terms, plan.layout),)


def _push_input(
    plan: Plan, moved: Array, x: Array, mean: Array, slope: Array, *weights: Array
) -> tuple[Array, ...]:
    """The transpose of `_grad_input` in dy, tilt and offset."""

    def pull(dy: Array, tilt: Array, offset: Array) -> tuple[Array]:
        return _grad_input(plan, dy, x, mean, slope, tilt, offset, *weights)

    return jax.linear_transpose(pull, x, slope, slope)((moved,))


def _apply_after(
    plan: Plan, x: Array, mean: Array, scale: Array, shift: Array, *residual: Array
) -> tuple[Array]:
    epilogue = Epilogue(plan.activation, *plan.fill(residual))
    return (_plain.apply(x, mean, scale, shift, plan.layout, epilogue),)


def _train(plan: Plan, x: Array, *optional: Array) -> tuple[Array, ...]:
    gamma, beta, residual = plan.fill(optional)
    epilogue = Epilogue(plan.activation, residual)
    y, moments, scale = fused.train(_plain, x, gamma, beta, plan.epsilon, plan.layout, epilogue)
    return y, moments.center, moments.offset, moments.variance, scale


def _gradients(plan: Plan, dy: Array, x: Array, *saved: Array) -> tuple[Array, ...]:
    center, offset, variance, scale = saved
    return fused.gradients(_plain, dy, x, center, offset, variance, scale, plan.epsilon, plan.layout)


def _gradients_after(plan: Plan, dy: Array, x: Array, *known: Array) -> tuple[Array, ...]:
    """The same through an activation, and what is pulled through it if there is a residual."""
    *saved, shift, residual = *known[:4], *plan.fill(known[4:])
    epilogue = Epilogue(plan.activation, residual, saved[3], shift)
    pulled = pull_through(_plain.ops, dy, x, saved[0], plan.layout, epilogue)
    found = _gradients(plan, pulled, x, *saved)
    return found if residual is None else (*found, pulled.astype(x.dtype))


def _push_after(plan: Plan, *arrays: Array) -> tuple[Array]:
    """The transpose of `_gradients_after` in dy."""
    moved, known = arrays[: _results(plan)], arrays[_results(plan) :]
    return jax.linear_transpose(lambda dy: _gradients_after(plan, dy, *known), known[0])(moved)


def _results(plan: Plan) -> int:
    """How many results `_gradients_after` has."""
    return 3 + plan.present[-1]


def _push(plan: Plan, moved: Array, shift: Array, tilt: Array, x: Array, *saved: Array) -> tuple[Array]:
    """The transpose of `_gradients` in dy."""

    def pull(dy: Array) -> tuple[Array, ...]:
        return _gradients(plan, dy, x, *saved)

    return jax.linear_transpose(pull, x)((moved, shift, tilt))


moments_p = define("moments", _moments, "total total statistic statistic statistic", kernel="moments")
apply_p = define("apply", _apply, "large", kernel="apply")
grad_sums_p = define("grad_sums", _grad_sums, "statistic statistic", kernel="grad_sums")
grad_input_p = define("grad_input", _grad_input, "large", kernel="grad_input")
push_input_p = define("push_input", _push_input, "large statistic statistic", kernel=None)
train_p = define("train", _train, "large statistic statistic statistic statistic", kernel="train")
gradients_p = define("gradients", _gradients, "large statistic statistic", kernel="gradients")
push_p = define("push", _push, "large", kernel=None)
apply_after_p = define("apply_after", _apply_after, "large", kernel="apply")
gradients_after_p = define(
    "gradients_after", _gradients_after, "large statistic statistic / large", kernel="gradients"
)
push_after_p = define("push_after", _push_after, "large", kernel=None)

linear_in(apply_p, (2, 3), lambda plan, moved, known: _reverse(grad_sums_p.bind(*moved, *known, plan=plan)))
linear_in(grad_sums_p, (0,), lambda plan, sums, known: apply_p.bind(*known, *_reverse(sums), plan=plan))
linear_in(grad_input_p, (0, 4, 5), lambda plan, moved, known: push_input_p.bind(*moved, *known, plan=plan))
linear_in(
    push_input_p,
    (0,),
    lambda plan, given, known: grad_input_p.bind(given[0], *known[:3], *given[1:], *known[3:], plan=plan),
)
linear_in(gradients_p, (0,), lambda plan, moved, known: push_p.bind(*moved, *known, plan=plan))
linear_in(push_p, (0, 1, 2), lambda plan, moved, known: gradients_p.bind(*moved, *known, plan=plan))


linear_in(gradients_after_p, (0,), lambda plan, moved, known: push_after_p.bind(*moved, *known, plan=plan))
linear_in(
    push_after_p,
    lambda plan: range(_results(plan)),
    lambda plan, moved, known: gradients_after_p.bind(*moved, *known, plan=plan),
)


def _reverse(pair: Any) -> tuple[Array, ...]:
    """Σdy belongs to the shift, Σdy·(x − mean) to the scale, which comes first."""
    return tuple(reversed(pair))


@dataclass(frozen=True)
class Native(Fusing[Any]):
    """Passes on the CPU kernels if these can be used and pay off, otherwise passes that XLA compiles.

    Attributes:
        insists: whether to use the kernels wherever possible.
    """

    insists: bool = False

    def moments(self, x: Array, weights: Array | None, layout: Layout) -> Moments[Array]:
        if not takes_kernels(self.insists, x, weights, layout):
            return super().moments(x, weights, layout)
        plan = Plan(layout, (weights is not None,))
        *totals, center, offset, variance = moments_p.bind(x, *_spread(weights, x, layout), plan=plan)
        total, effective = [float(layout.count)] * 2 if weights is None else totals
        return Moments(total, effective, center + offset, variance, center, offset)

    def apply(
        self,
        x: Array,
        mean: Array,
        scale: Array,
        shift: Array,
        layout: Layout,
        epilogue: Epilogue[Array] | None = None,
    ) -> Array:
        residual = None if epilogue is None else epilogue.residual
        if not takes_kernels(self.insists, x, None, layout, mean, scale, shift, residual):
            return super().apply(x, mean, scale, shift, layout, epilogue)
        known = _known((mean, scale, shift), x, layout)
        if epilogue is None:
            (y,) = apply_p.bind(x, *known, plan=Plan(layout))
        else:
            plan = Plan(layout, (residual is not None,), activation=epilogue.activation)
            (y,) = apply_after_p.bind(x, *known, *_given(residual), plan=plan)
        return y

    def grad_sums(self, dy: Array, x: Array, mean: Array, layout: Layout) -> tuple[Array, Array]:
        if not takes_kernels(self.insists, x, None, layout, dy, mean):
            return super().grad_sums(dy, x, mean, layout)
        first, second = grad_sums_p.bind(
            dy.astype(x.dtype), x, *_known((mean,), x, layout), plan=Plan(layout)
        )
        return first, second

    def grad_input(
        self,
        dy: Array,
        x: Array,
        weights: Array | None,
        mean: Array,
        terms: GradTerms[Array],
        layout: Layout,
        epilogue: Epilogue[Array] | None = None,
    ) -> Array:
        if epilogue is not None or not takes_kernels(self.insists, x, weights, layout, dy, mean, *terms):
            return super().grad_input(dy, x, weights, mean, terms, layout, epilogue)
        plan = Plan(layout, (weights is not None,))
        known = _known((mean, *terms), x, layout)
        (dx,) = grad_input_p.bind(dy.astype(x.dtype), x, *known, *_spread(weights, x, layout), plan=plan)
        return dx

    def fused_train(
        self,
        x: Array,
        gamma: Array | None,
        beta: Array | None,
        epsilon: Any,
        layout: Layout,
        epilogue: Epilogue[Array] | None = None,
    ) -> tuple[Array, Moments[Array], Array] | None:
        activation, residual = (None, None) if epilogue is None else epilogue[:2]
        if not isinstance(epsilon, Real):
            return None
        if not takes_kernels(self.insists, x, None, layout, gamma, beta, residual):
            return None
        dtype = ops.stat_dtype(x)
        present = tuple(value is not None for value in (gamma, beta, residual))
        parameters = [value.astype(dtype) for value in (gamma, beta) if value is not None]
        given = *parameters, *_given(residual)
        plan = Plan(layout, present, float(epsilon), activation)
        y, center, offset, variance, scale = train_p.bind(x, *given, plan=plan)
        total = float(layout.count)
        return y, Moments(total, total, center + offset, variance, center, offset), scale

    def fused_gradients(
        self,
        dy: Array,
        x: Array,
        saved: Saved[Array],
        epsilon: Any,
        layout: Layout,
        epilogue: Epilogue[Array] | None = None,
    ) -> tuple[Array, Array, Array, Array | None] | None:
        residual = None if epilogue is None else epilogue.residual
        if not isinstance(epsilon, Real):
            return None
        if not takes_kernels(self.insists, x, None, layout, dy, saved.scale, residual):
            return None
        known = _known((saved.center, saved.offset, saved.variance, saved.scale), x, layout)
        dy = dy.astype(x.dtype)
        if epilogue is None:
            return *gradients_p.bind(dy, x, *known, plan=Plan(layout, (), float(epsilon))), None
        plan = Plan(layout, (True, residual is not None), float(epsilon), epilogue.activation)
        shift = _known((epilogue.shift,), x, layout)
        dx, sums, products, *pulled = gradients_after_p.bind(
            dy, x, *known, *shift, *_given(residual), plan=plan
        )
        return dx, sums, products, pulled[0] if pulled else None


def _spread(weights: Array | None, x: Array, layout: Layout) -> list[Array]:
    """Weights over all positions, if there are any."""
    if weights is None:
        return []
    return [jnp.broadcast_to(weights.astype(ops.stat_dtype(x)), layout.weight_shape)]


def _given(residual: Array | None) -> list[Array]:
    return [] if residual is None else [residual]


def _known(values: Any, x: Array, layout: Layout) -> list[Array]:
    """Statistics as [G, C]; some arrive in a shape that only broadcasts to it."""
    dtype, shape = ops.stat_dtype(x), (layout.ghosts, layout.channels)
    return [jnp.broadcast_to(jnp.asarray(value, dtype), shape) for value in values]
