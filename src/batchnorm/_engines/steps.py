"""A plain training step and its gradient by an engine's passes: what a kernel does in one call each.

For frameworks that keep both, and choose when they know where the program runs.
"""

from batchnorm._core.affine import fold, invert_deviation
from batchnorm._engines.composed import share
from batchnorm._engines.protocol import A, Engine, GradTerms, Moments
from batchnorm.layout import Layout

__all__ = ["gradients", "train"]


def train(
    engine: Engine[A], x: A, gamma: A | None, beta: A | None, epsilon: float, layout: Layout
) -> tuple[A, Moments[A], A]:
    """y, the moments and the scale, γ / √(σ² + ε)."""
    moments = engine.moments(x, None, layout)
    scale, shift = fold(
        engine.ops, epsilon, moments.variance, moments.offset, None, None, gamma, beta, layout
    )
    return engine.apply(x, moments.center, scale, shift, layout), moments, scale


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
    """dx, Σdy and Σdy·x̂."""
    ops = engine.ops
    dy_sum, dy_centered_sum = engine.grad_sums(dy, x, center, layout)
    inverse = invert_deviation(ops, epsilon, variance)
    dy_xhat_sum = (dy_centered_sum - offset * dy_sum) * inverse
    pulled = scale * share(ops, ops.as_float(layout.count, ops.dtype(scale)))
    tilt = -pulled * inverse * dy_xhat_sum
    terms = GradTerms(scale, tilt, -pulled * dy_sum - offset * tilt)
    return engine.grad_input(dy, x, None, center, terms, layout), dy_sum, dy_xhat_sum
