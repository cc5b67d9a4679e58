"""The gradient of one training step, and its transpose, which propagates tangents.

With g = ∂L/∂y, h = γ·r·g, x̂ = (x − μ)·s, s = 1/√(σ² + ε) and p_i = w_i / Σw, per group and channel:

    ∂L/∂x_i = s·( h_i − p_i·Σh − p_i·x̂_i·Σh·x̂ )
            = (γ·r·s)·g_i + w_i·( tilt·(x_i − μ) + offset )
      offset = −γ·r·s·Σg / W              tilt = −γ·r·s·s²·Σg·(x − μ) / W
    ∂L/∂γ   = Σ g·(r·x̂ + d)               ∂L/∂β = Σ g
    ∂L/∂w_i = Σ offset·(x_i − μ) + ½·tilt·((x_i − μ)² − σ²)

The first line is the chain rule through x̂ = (x − μ)·s with ∂μ/∂x_i = p_i and ∂σ²/∂x_i = 2·p_i·(x_i − μ): the mean's
own share in σ² drops out because Σp·(x − μ) = 0. The last follows likewise from ∂μ/∂w_i = (x_i − μ)/W and
∂σ²/∂w_i = ((x_i − μ)² − σ²)/W. r and d are constants (Ioffe 2017), and so are the moving averages.
The passes subtract a center c, with μ = c + δ. That changes one sum and the offset:

    Σg·(x − μ) = Σg·(x − c) − δ·Σg          tilt·(x − μ) + offset = tilt·(x − c) + (offset − δ·tilt)

Over several replicas the two sums in offset and tilt run over all of them, while γ's and β's gradients stay local:
data-parallel training adds those up itself.

Forward mode differentiates the same x̂; dots mark tangents:

    ẏ = γ·r·s·ẋ_i + tilt·(x_i − μ) + offset
      offset = γ̇·d + β̇ − γ·r·s·μ̇         tilt = γ̇·r·s − ½·γ·r·s·s²·(σ²)˙
      μ̇ = Σp·ẋ + Σẇ·(x − μ) / W           (σ²)˙ = 2·Σp·ẋ·(x − μ) + Σẇ·((x − μ)² − σ²) / W
"""

from batchnorm._core.affine import invert_deviation
from batchnorm._core.composed import pull_through
from batchnorm._core.engine import A, Engine, Gradients, GradTerms, Inputs, Ops, Saved
from batchnorm._core.epilogue import recomputed
from batchnorm.layout import Layout
from batchnorm.options import Options

__all__ = ["about_center", "backward", "input_terms", "jvp", "sums_about_mean"]


def backward(
    engine: Engine[A], options: Options, layout: Layout, inputs: Inputs[A], saved: Saved[A], dy: A
) -> Gradients[A]:
    """Gradients with respect to x, gamma, beta, the weights and the residual, from that with respect to y."""
    ops, has_residual = engine.ops, inputs.residual is not None
    epilogue = recomputed(ops, options, layout, inputs, saved)
    if inputs.weights is None and not options.synchronized and options.fused is not False:
        done = engine.fused_gradients(dy, inputs.x, saved, options.epsilon, layout, epilogue)
        if done is not None:
            dx, dy_sum, dy_xhat_sum, pulled = done
            parameters = _parameters(ops, inputs, saved, dy_sum, dy_xhat_sum)
            return Gradients(dx, *parameters, None, _or(pulled, dy) if has_residual else None)

    if epilogue is None:
        dy_sum, dy_centered_sum = sums_about_mean(engine, dy, inputs.x, saved, layout)
    else:
        keep = has_residual or inputs.weights is not None
        dy_sum, centered, pulled = engine.pulled_sums(dy, inputs.x, saved.center, layout, epilogue, keep)
        dy_centered_sum = centered - saved.offset * dy_sum
        if pulled is not None:
            # From here on as without an epilogue.
            dy, epilogue = pulled, None
    inverse = invert_deviation(ops, options.epsilon, saved.variance)
    parameters = _parameters(ops, inputs, saved, dy_sum, dy_centered_sum * inverse)
    if options.synchronized:
        dy_sum, dy_centered_sum = engine.sum_over_replicas((dy_sum, dy_centered_sum))
    terms = input_terms(ops, saved, inverse, dy_sum, dy_centered_sum)
    about = about_center(terms, saved)
    dx = engine.grad_input(dy, inputs.x, inputs.weights, saved.center, about, layout, epilogue)
    residual = dy if has_residual else None
    if inputs.weights is None:
        return Gradients(dx, *parameters, None, residual)
    dw = engine.grad_weights(
        inputs.x, inputs.weights, saved.center, saved.offset, saved.variance, terms, layout
    )
    return Gradients(dx, *parameters, dw, residual)


def jvp(
    engine: Engine[A],
    options: Options,
    layout: Layout,
    inputs: Inputs[A],
    saved: Saved[A],
    tangents: Gradients[A],
) -> A:
    """The tangent of y, from those of its inputs; a tangent of None is zero."""
    ops = engine.ops
    x = ops.cast(inputs.x, ops.stat_dtype(inputs.x))
    # There is always a gradient with respect to x, but not always a tangent of x.
    dx = ops.zeros_like(x) if tangents.x is None else ops.cast(tangents.x, ops.dtype(x))  # pyright: ignore[reportUnnecessaryComparison]
    weighted = dx if inputs.weights is None else dx * inputs.weights
    moved, tilted = sums_about_mean(engine, weighted, x, saved, layout)
    spread = 2.0 * tilted
    if tangents.weights is not None:
        # ẇ for each number, and (x − μ), which `apply` computes with a scale of 1.
        along = tangents.weights + ops.zeros_like(x)
        ones = ops.zeros_like(saved.variance) + 1.0
        centered = engine.apply(x, saved.center, ones, ops.zeros_like(ones) - saved.offset, layout)
        gained, turned = sums_about_mean(engine, along, x, saved, layout)
        _, square = sums_about_mean(engine, along * centered, x, saved, layout)
        moved, spread = moved + turned, spread + square - gained * saved.variance
    if options.synchronized:
        moved, spread = engine.sum_over_replicas((moved, spread))
    share = _share(ops, saved.total)
    inverse = invert_deviation(ops, options.epsilon, saved.variance)
    tilt = -0.5 * saved.scale * inverse * inverse * (spread * share)
    offset = -saved.scale * (moved * share)
    if tangents.gamma is not None:
        tilt = tilt + tangents.gamma * (inverse if saved.r is None else inverse * saved.r)
        offset = offset if saved.d is None else offset + tangents.gamma * saved.d
    if tangents.beta is not None:
        offset = offset + tangents.beta
    terms = about_center(GradTerms(saved.scale, tilt, offset), saved)
    tangent = engine.grad_input(dx, x, None, saved.center, terms, layout)
    if tangents.residual is not None:
        tangent = tangent + ops.cast(tangents.residual, ops.dtype(x))
    epilogue = recomputed(ops, options, layout, inputs, saved)
    if epilogue is not None:
        tangent = pull_through(ops, tangent, x, saved.center, layout, epilogue)
    return ops.cast(tangent, ops.dtype(inputs.x))


def _or(pulled: A | None, dy: A) -> A:
    """The gradient of the residual: that of y, unless an activation came between."""
    return dy if pulled is None else pulled


def input_terms(ops: Ops[A], saved: Saved[A], inverse: A, dy_sum: A, dy_centered_sum: A) -> GradTerms[A]:
    """The terms of dx about the mean, from Σg, Σg·(x − μ) and 1 / √(σ² + ε)."""
    mean_slope = saved.scale * _share(ops, saved.total)
    return GradTerms(saved.scale, -mean_slope * inverse * inverse * dy_centered_sum, -mean_slope * dy_sum)


def about_center(terms: GradTerms[A], saved: Saved[A]) -> GradTerms[A]:
    """The same for `grad_input`, which subtracts the center: an offset that accounts for the remainder."""
    return terms._replace(offset=terms.offset - saved.offset * terms.tilt)


def sums_about_mean(engine: Engine[A], dy: A, x: A, saved: Saved[A], layout: Layout) -> tuple[A, A]:
    """Σdy and Σdy·(x − μ), the latter from the pass's sum about the center."""
    total, centered = engine.grad_sums(dy, x, saved.center, layout)
    return total, centered - saved.offset * total


def _parameters(
    ops: Ops[A], inputs: Inputs[A], saved: Saved[A], dy_sum: A, dy_xhat_sum: A
) -> tuple[A | None, A | None]:
    dgamma = dbeta = None
    if inputs.gamma is not None:
        per_group = dy_xhat_sum if saved.r is None else saved.r * dy_xhat_sum
        dgamma = ops.sum(per_group if saved.d is None else per_group + saved.d * dy_sum, (0,))
    if inputs.beta is not None:
        dbeta = ops.sum(dy_sum, (0,))
    return dgamma, dbeta


def _share(ops: Ops[A], total: A | float) -> A | float:
    """1 / Σw, and 0 if there was no weight: the statistics were then the moving ones, which are constants."""
    if isinstance(total, (int, float)):
        return 1.0 / total if total > 0.0 else 0.0
    return ops.where(total > 0.0, 1.0 / ops.where(total > 0.0, total, 1.0), 0.0)
