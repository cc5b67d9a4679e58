"""Batch renormalization's corrections (Ioffe 2017, https://arxiv.org/abs/1702.03275, algorithm 1)."""

from batchnorm._core.engine import A, Batch, Moments, Ops, State
from batchnorm._core.moments import average
from batchnorm.layout import Layout
from batchnorm.options import Clip, Options

__all__ = ["correct", "deviation"]


def correct(
    ops: Ops[A], options: Options, moments: Moments[A], batch: Batch[A], state: State[A], layout: Layout
) -> tuple[A | None, A | None]:
    """r and d for each channel, [C], as constants to the gradient; None without renorm.

    r = σ / S      d = (μ − M) / S      σ = √(σ² + ε), the batch's deviation

    In the current form M is `renorm_mean` and S is max(`renorm_stddev`, √ε). In the debiased form the batch first
    joins the averages, with the weight that they still lack: M = renorm_mean + (1 − renorm_mean_weight)·μ, and S
    likewise, so that the first step has r = 1 and d = 0. There μ − M = renorm_mean_weight·μ − renorm_mean.
    """
    if options.renorm is None:
        return None, None
    sigma = deviation(ops, options, batch)
    # μ − M from the unrounded mean: if the mean is far from zero, its rounding error is a large part of μ − M.
    if options.renorm.form == "current":
        away = (moments.center - state["renorm_mean"]) + moments.offset
        spread = ops.maximum(state["renorm_stddev"], options.epsilon**0.5)
    else:
        weight = state["renorm_mean_weight"]
        away = (weight * moments.center - state["renorm_mean"]) + weight * moments.offset
        spread = state["renorm_stddev"] + (1.0 - state["renorm_stddev_weight"]) * sigma
    (away,), _ = average(ops, moments, (away,), layout)
    r, d = _clip(ops, options.renorm.clip, sigma / spread, away / spread)
    if batch.has_weight is not None:
        r, d = ops.where(batch.has_weight, r, 1.0), ops.where(batch.has_weight, d, 0.0)
    return ops.stop_gradient(r), ops.stop_gradient(d)


def deviation(ops: Ops[A], options: Options, batch: Batch[A]) -> A:
    """√(σ² + ε) of the batch."""
    return ops.sqrt(batch.variance + options.epsilon)


def _clip(ops: Ops[A], clip: Clip, r: A, d: A) -> tuple[A, A]:
    if clip.rmin is not None:
        r = ops.maximum(r, clip.rmin)
    if clip.rmax is not None:
        r = ops.minimum(r, clip.rmax)
    if clip.dmax is not None:
        d = ops.minimum(ops.maximum(d, -clip.dmax), clip.dmax)
    return r, d
