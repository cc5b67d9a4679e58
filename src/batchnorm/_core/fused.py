"""A plain training step and its gradient by an engine's passes: what a fused kernel does in one call each.

For frameworks that keep both ways, and choose once they know where the program runs.
"""

from batchnorm._core.affine import fold, invert_deviation
from batchnorm._core.engine import A, Engine, Epilogue, Moments, Saved
from batchnorm._core.gradient import about_center, input_terms, sums_about_mean
from batchnorm.layout import Layout

__all__ = ["gradients", "train"]


def train(
    engine: Engine[A],
    x: A,
    gamma: A | None,
    beta: A | None,
    epsilon: float,
    layout: Layout,
    epilogue: Epilogue[A] | None = None,
) -> tuple[A, Moments[A], A]:
    """y, the moments and the scale, γ / √(σ² + ε)."""
    moments = engine.moments(x, None, layout)
    scale, shift = fold(
        engine.ops, epsilon, moments.variance, moments.offset, None, None, gamma, beta, layout
    )
    return engine.apply(x, moments.center, scale, shift, layout, epilogue), moments, scale


def gradients(
    engine: Engine[A],
    dy: A,
    x: A,
    center: A,
    offset: A,
    variance: A,
    scale: A,
    epsilon: float,
    layout: Layout,
) -> tuple[A, A, A]:
    """dx, Σdy and Σdy·x̂. With an activation dy is what has been pulled through it."""
    ops = engine.ops
    total = ops.as_float(layout.count, ops.dtype(scale))
    saved = Saved(total, center, offset, variance, scale, None, None)
    dy_sum, dy_centered_sum = sums_about_mean(engine, dy, x, saved, layout)
    inverse = invert_deviation(ops, epsilon, variance)
    terms = input_terms(ops, saved, inverse, dy_sum, dy_centered_sum)
    dx = engine.grad_input(dy, x, None, center, about_center(terms, saved), layout)
    return dx, dy_sum, dy_centered_sum * inverse
