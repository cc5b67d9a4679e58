"""The oracle's gradients of sum(dy * y), by formula and by finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from oracle_forward import Pair, forward
from oracle_records import Array, Spec, State, align_left, lift, reduced_sum, unbroadcast, unlift


@np.errstate(divide="ignore", invalid="ignore")
def gradients(
    spec: Spec,
    state: State,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    dy: Array,
    weights: Array | None = None,
    adjustment: Pair | None = None,
    training: bool = True,
    residual: Array | None = None,
) -> dict[str, Array]:
    """Each gradient in the shape of what it belongs to; those of absent inputs are left out.

    With g = dy * act'(u), h = g * gamma * a_s * r, and sums over the channel in its group:

        dx = inverse * (h - p * sum(h) - p * x_hat * sum(h * x_hat))

    r, d and the moving averages are constants, and at inference p is zero. Of the weights, with W their sum,
    d mean / d w = (x - mean) / W and d variance / d w = ((x - mean)^2 - variance) / W, hence

        dw = -(x_hat * sum(h) + (x_hat^2 - variance * inverse^2) / 2 * sum(h * x_hat)) / W
    """
    x = np.asarray(x, np.float64)
    spec, weights, adjustment = _as_called(spec, weights, adjustment, training)
    names = _differentiable(spec, gamma, beta, weights, adjustment, residual)
    if x.size == 0:
        return {name: np.zeros(np.shape(value)) for name, value in {"dx": x, **names}.items()}
    at = forward(spec, state, x, gamma, beta, weights, adjustment, training, residual=residual)
    g = lift(spec, np.asarray(dy, np.float64)) * at.slope
    corrected = at.r * at.x_hat + at.d
    h = g * at.gamma * at.a_s * at.r
    sum_h, sum_hx = reduced_sum(spec, h), reduced_sum(spec, h * at.x_hat)
    found = {"dx": unlift(spec, at.inverse * (h - at.p * sum_h - at.p * at.x_hat * sum_hx), x.shape)}

    if "dresidual" in names:
        found["dresidual"] = unlift(spec, g, x.shape)
    channel_terms = {"dgamma": g * (at.a_s * corrected + at.a_b), "dbeta": g}
    adjustment_terms = {"dscale_adjustment": g * at.gamma * corrected, "dbias_adjustment": g * at.gamma}
    for name, terms in channel_terms.items():
        if name in names:
            found[name] = reduced_sum(spec, terms).sum(axis=1).reshape(np.shape(names[name]))
    for name, terms in adjustment_terms.items():
        if name in names:
            found[name] = unbroadcast(unlift(spec, terms, x.shape), np.shape(names[name]))
    if "dweights" in names:
        excess = at.x_hat**2 - at.variance * at.inverse**2
        terms = -(at.x_hat * sum_h + excess / 2 * sum_hx)
        terms = np.where(at.total != 0, terms / np.where(at.total != 0, at.total, 1.0), 0.0)
        summed = unbroadcast(unlift(spec, terms, x.shape), align_left(weights, x.ndim).shape)
        found["dweights"] = summed.reshape(np.shape(weights))
    return found


def numeric_gradients(
    spec: Spec,
    state: State,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    dy: Array,
    weights: Array | None = None,
    adjustment: Pair | None = None,
    training: bool = True,
    residual: Array | None = None,
    step: float = 1e-5,
) -> dict[str, Array]:
    """The same by central differences, with r and d held at their values here."""
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    spec, weights, adjustment = _as_called(spec, weights, adjustment, training)
    here = forward(spec, state, x, gamma, beta, weights, adjustment, training)
    names = {"dx": x, **_differentiable(spec, gamma, beta, weights, adjustment, residual)}
    point = {name: np.array(value, np.float64) for name, value in names.items()}

    def loss() -> float:
        pair = None
        if adjustment is not None:
            pair = point["dscale_adjustment"], point["dbias_adjustment"]
        values = (point.get(name) for name in ("dx", "dgamma", "dbeta", "dweights"))
        added = point.get("dresidual")
        at = forward(spec, state, *values, pair, training, frozen=(here.r, here.d), residual=added)
        return float(np.sum(lift(spec, dy) * at.y))

    found: dict[str, Array] = {}
    for name, value in point.items():
        found[name] = np.zeros_like(value)
        for i in np.ndindex(value.shape):
            center = value[i]
            value[i] = center + step
            above = loss()
            value[i] = center - step
            below = loss()
            value[i] = center
            found[name][i] = (above - below) / (2 * step)
    return found


def magnitudes(
    spec: Spec,
    state: State,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    dy: Array,
    weights: Array | None = None,
    adjustment: Pair | None = None,
    training: bool = True,
    residual: Array | None = None,
) -> dict[str, Array]:
    """The sizes of the terms that y, dx, dgamma and dbeta are sums and differences of.

    Rounding is relative to these: a sum can be far smaller than its terms. In y the terms are those of
    x - mean, so a large mean shows. No activation is steeper than 1.13.
    """
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    spec, weights, adjustment = _as_called(spec, weights, adjustment, training)
    at = forward(spec, state, x, gamma, beta, weights, adjustment, training, residual=residual)
    steepest = 1.0 if spec.activation is None else 1.13
    g, slope = steepest * np.abs(lift(spec, dy)), np.abs(at.gamma * at.a_s * at.r)
    h, size, p = g * slope, np.abs(at.x_hat), np.abs(at.p)
    spread = (np.abs(lift(spec, x)) + np.abs(at.mean)) * at.inverse
    y = slope * spread + np.abs(at.gamma * (at.a_s * at.d + at.a_b)) + np.abs(at.beta)
    y = steepest * (y + np.abs(at.residual))
    dx = at.inverse * (h + p * reduced_sum(spec, h) + p * size * reduced_sum(spec, h * size))
    found = {"y": unlift(spec, y, x.shape), "dx": unlift(spec, dx, x.shape)}
    terms = {"dgamma": np.abs(at.a_s) * (np.abs(at.r) * size + np.abs(at.d)) + np.abs(at.a_b), "dbeta": 1.0}
    for name, value in _differentiable(spec, gamma, beta, None, None).items():
        found[name] = reduced_sum(spec, g * terms[name]).sum(axis=1).reshape(np.shape(value))
    return found


def _as_called(
    spec: Spec, weights: Array | None, adjustment: Pair | None, training: bool
) -> tuple[Spec, Array | None, Pair | None]:
    """Inference knows no groups, weights or adjustment."""
    return (spec, weights, adjustment) if training else (replace(spec, ghost_size=None), None, None)


def _differentiable(
    spec: Spec,
    gamma: Array | None,
    beta: Array | None,
    weights: Array | None,
    adjustment: Pair | None,
    residual: Array | None = None,
) -> dict[str, Array]:
    """The inputs besides x that have a gradient, by the gradient's name."""
    a_s, a_b = (None, None) if adjustment is None else adjustment
    named = {
        "dgamma": gamma if spec.with_gamma else None,
        "dbeta": beta if spec.with_beta else None,
        "dscale_adjustment": a_s,
        "dbias_adjustment": a_b,
        "dweights": weights,
        "dresidual": residual,
    }
    return {name: value for name, value in named.items() if value is not None}
