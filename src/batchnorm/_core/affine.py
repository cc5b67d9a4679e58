"""The slope and the offset of y over x, per group and channel."""

from batchnorm._core.engine import A, Ops
from batchnorm.layout import Layout

__all__ = ["fold", "invert_deviation", "shift_of"]


def fold(
    ops: Ops[A],
    epsilon: float,
    variance: A,
    offset: A | None,
    r: A | None,
    d: A | None,
    gamma: A | None,
    beta: A | None,
    layout: Layout,
) -> tuple[A, A]:
    """What `apply` needs, so that (x − center)·scale + shift = γ·(r·x̂ + d) + β, where μ = center + offset.

    Returns:
        scale = γ·r / √(σ² + ε) and shift = γ·d + β − offset·scale, broadcast to [G, C].
    """
    factor = gamma if r is None else r if gamma is None else gamma * r
    scale = invert_deviation(ops, epsilon, variance)
    if factor is not None:
        scale = scale * factor
    scale = ops.broadcast_to(scale, (layout.ghosts, layout.channels))
    return scale, shift_of(ops, scale, offset, d, gamma, beta, layout)


def shift_of(
    ops: Ops[A],
    scale: A,
    offset: A | None,
    d: A | None,
    gamma: A | None,
    beta: A | None,
    layout: Layout,
) -> A:
    """γ·d + β − offset·scale, broadcast to [G, C]."""
    moved = None if d is None else d if gamma is None else gamma * d
    shift = beta if moved is None else moved if beta is None else moved + beta
    if offset is not None:
        away = offset * scale
        shift = -away if shift is None else shift - away
    return (
        ops.zeros_like(scale) if shift is None else ops.broadcast_to(shift, (layout.ghosts, layout.channels))
    )


def invert_deviation(ops: Ops[A], epsilon: float, variance: A) -> A:
    """1 / √(σ² + ε)."""
    return 1.0 / ops.sqrt(variance + epsilon)
