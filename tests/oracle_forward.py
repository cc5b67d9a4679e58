"""The oracle's training and inference step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from oracle_activations import activation
from oracle_records import (
    Array,
    Spec,
    State,
    align_left,
    average_groups,
    check_ghosts,
    kept_axes,
    kept_shape,
    lift,
    lift_kept,
    reduced_sum,
    unlift,
)

Pair = tuple[Array, Array]


@dataclass(frozen=True)
class Pass:
    """One evaluation, in lifted form.

    `total`: the weights' sum per group and channel, zero at inference. `effective_count`: (Σw)² / Σw².
    """

    x_hat: Array
    inverse: Array
    p: Array
    total: Array
    effective_count: Array
    mean: Array
    variance: Array
    r: Array
    d: Array
    gamma: Array
    beta: Array
    a_s: Array
    a_b: Array
    residual: Array
    activation: tuple[str | None, float]

    @property
    def u(self) -> Array:
        affine = self.gamma * (self.a_s * (self.r * self.x_hat + self.d) + self.a_b) + self.beta
        return affine + self.residual

    @property
    def y(self) -> Array:
        return activation(*self.activation, self.u)[0]

    @property
    def slope(self) -> Array:
        """The derivative of y by u."""
        return activation(*self.activation, self.u)[1]


def init_state(spec: Spec, shape: tuple[int, ...], mean: object = None, variance: object = None) -> State:
    """The state before the first step on inputs of `shape`; zeros and ones unless other values are given.

    Arrays have the given values' shape, else [C] for one kept axis and rank n with 1 off several.
    """
    axes = kept_axes(spec, len(shape))
    default = (shape[axes[0]],) if len(axes) == 1 else kept_shape(spec, shape)
    start = np.zeros(default) if mean is None else np.array(mean, np.float64)
    spread = np.ones(default) if variance is None else np.array(variance, np.float64)
    state = State(start, spread)
    if spec.legacy_renorm:
        zeros = np.zeros_like(start)
        state = replace(state, renorm_mean=zeros, renorm_stddev=zeros)
        return replace(state, renorm_mean_weight=0.0, renorm_stddev_weight=0.0)
    if spec.renorm:
        state = replace(state, stddev=np.sqrt(spread), renorm_mean=start, renorm_stddev=np.sqrt(spread))
    if spec.debias_mean:
        state = replace(state, biased=np.zeros_like(start), local_step=0.0)
    return state


# NaN, infinity and epsilon 0 are legal inputs whose results are wanted, not warned of
@np.errstate(divide="ignore", invalid="ignore")
def train_step(
    spec: Spec,
    state: State,
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    weights: Array | None = None,
    adjustment: Pair | None = None,
    residual: Array | None = None,
) -> tuple[Array, State]:
    """(y, state after the step). `weights` align with x from the left, `adjustment` from the right."""
    x = np.asarray(x, np.float64)
    if x.size == 0:
        return x, state
    step = forward(spec, state, x, gamma, beta, weights, adjustment, residual=residual)
    return unlift(spec, step.y, x.shape), _advance(spec, state, step, weighted=weights is not None)


@np.errstate(divide="ignore", invalid="ignore")
def infer(
    spec: Spec,
    state: State,
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    residual: Array | None = None,
) -> Array:
    """y with the moving statistics: no groups, weights, adjustment or correction."""
    x = np.asarray(x, np.float64)
    spec = replace(spec, ghost_size=None)
    return unlift(spec, forward(spec, state, x, gamma, beta, training=False, residual=residual).y, x.shape)


def forward(
    spec: Spec,
    state: State,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    weights: Array | None = None,
    adjustment: Pair | None = None,
    training: bool = True,
    frozen: Pair | None = None,
    residual: Array | None = None,
) -> Pass:
    """Inference is the case in which no element has weight. `frozen` gives r and d; None computes them."""
    check_ghosts(spec, x.shape)
    lifted = lift(spec, x)
    if not training:
        w = np.zeros_like(lifted)
    else:
        w = np.ones(1) if weights is None else weights
        w = lift(spec, np.broadcast_to(align_left(w, x.ndim), x.shape))
    total = reduced_sum(spec, w)
    # not "> 0": NaN weights must show in the result
    present = total != 0
    p = w / np.where(present, total, 1.0)
    # a group without any weight has the moving statistics; a lone channel without weight in it has zeros
    group = present.any(axis=tuple(a for a in range(present.ndim) if a != 1), keepdims=True)
    mean = np.where(group, reduced_sum(spec, p * lifted), lift_kept(spec, state.mean, x.shape))
    squares = reduced_sum(spec, p * (lifted - mean) ** 2)
    variance = np.where(group, squares, lift_kept(spec, state.variance, x.shape))
    effective = total**2 / np.where(present, reduced_sum(spec, w**2), 1.0)

    r, d = np.ones_like(mean), np.zeros_like(mean)
    if frozen is not None:
        r, d = frozen
    elif spec.renorm and training:
        averages = average_groups(mean, present), average_groups(variance, present)
        corrected = _correction(spec, state, *averages, x.shape)
        r, d = np.where(present, corrected[0], 1.0), np.where(present, corrected[1], 0.0)

    a_s, a_b = (1.0, 0.0) if adjustment is None else adjustment
    inverse = 1.0 / np.sqrt(variance + spec.epsilon)
    return Pass(
        x_hat=(lifted - mean) * inverse,
        inverse=inverse,
        p=p,
        total=total,
        effective_count=effective,
        mean=mean,
        variance=variance,
        r=r,
        d=d,
        gamma=lift_kept(spec, gamma, x.shape) if spec.with_gamma and gamma is not None else np.ones(1),
        beta=lift_kept(spec, beta, x.shape) if spec.with_beta and beta is not None else np.zeros(1),
        a_s=lift(spec, np.broadcast_to(np.asarray(a_s, np.float64), x.shape)),
        a_b=lift(spec, np.broadcast_to(np.asarray(a_b, np.float64), x.shape)),
        residual=lift(spec, np.zeros(x.shape) if residual is None else np.asarray(residual, np.float64)),
        activation=(spec.activation, spec.slope),
    )


def _correction(spec: Spec, state: State, mean: Array, variance: Array, shape: tuple[int, ...]) -> Pair:
    """r = stddev / reference stddev and d = (mean - reference mean) / reference stddev, clipped."""
    stddev = np.sqrt(variance + spec.epsilon)
    reference_mean = lift_kept(spec, state.renorm_mean, shape)
    reference_stddev = lift_kept(spec, state.renorm_stddev, shape)
    if spec.legacy_renorm:
        # what the averages still lack of full weight is filled with the batch itself
        reference_mean = reference_mean + (1 - state.renorm_mean_weight) * mean
        reference_stddev = reference_stddev + (1 - state.renorm_stddev_weight) * stddev
    else:
        reference_stddev = np.maximum(reference_stddev, math.sqrt(spec.epsilon))
    clip = {"rmin": -math.inf, "rmax": math.inf, "dmax": math.inf, **(spec.renorm_clip or {})}
    r = np.minimum(np.maximum(stddev / reference_stddev, clip["rmin"]), clip["rmax"])
    d = (mean - reference_mean) / reference_stddev
    return r, np.minimum(np.maximum(d, -clip["dmax"]), clip["dmax"])


def _advance(spec: Spec, state: State, step: Pass, weighted: bool) -> State:
    """The state after a training step; r, d and y of that step used the state before it."""
    present = step.total != 0
    if spec.ghost_averages == "group":
        # as in a loop over the groups, each of which is a batch of its own
        for k in range(present.shape[1]):
            names = ("total", "effective_count", "mean", "variance")
            group = {name: getattr(step, name)[:, k : k + 1] for name in names}
            state = _advance(replace(spec, ghost_averages="step"), state, replace(step, **group), weighted)
        return state
    known = present.any(axis=1, keepdims=True)
    if not known.any():
        return state
    mean = average_groups(step.mean, present)
    variance = average_groups(step.variance, present)
    stddev = np.sqrt(variance + spec.epsilon)

    def keep_unknown(old: Array, new: Array) -> Array:
        return np.where(known.reshape(old.shape), new, old)

    def blend(old: Array, value: Array, decay: float) -> Array:
        return keep_unknown(old, _blend(old, value.reshape(old.shape), decay))

    if spec.legacy_renorm:
        return _advance_legacy(spec, state, mean, stddev, blend)
    if spec.debias_mean:
        biased = blend(state.biased, mean, spec.decay)
        count = state.local_step + 1
        unbiased = keep_unknown(state.mean, biased.reshape(state.mean.shape) / (1 - spec.decay**count))
        if spec.decay == 1.0:
            unbiased = state.mean
        moved = replace(state, mean=unbiased, biased=biased, local_step=count)
    else:
        moved = replace(state, mean=blend(state.mean, mean, spec.decay))
    if not spec.renorm:
        if spec.variance == "sample":
            n = step.effective_count
            variance = average_groups(step.variance * n / np.maximum(n - 1, 1), present)
        return replace(moved, variance=blend(state.variance, variance, spec.decay))
    moving_stddev = blend(state.stddev, stddev, spec.decay)
    floored = np.maximum(moving_stddev**2 - spec.epsilon, 0.0).reshape(state.variance.shape)
    return replace(
        moved,
        variance=keep_unknown(state.variance, floored),
        stddev=moving_stddev,
        renorm_mean=blend(state.renorm_mean, mean, spec.renorm_decay),
        renorm_stddev=blend(state.renorm_stddev, stddev, spec.renorm_decay),
    )


def _advance_legacy(spec: Spec, state: State, mean: Array, stddev: Array, blend) -> State:
    """TensorFlow <= 1.14: the moving statistics follow the debiased renorm averages, not the batch."""
    renorm_mean = blend(state.renorm_mean, mean, spec.renorm_decay)
    renorm_stddev = blend(state.renorm_stddev, stddev, spec.renorm_decay)
    mean_weight = _blend(state.renorm_mean_weight, 1.0, spec.renorm_decay)
    stddev_weight = _blend(state.renorm_stddev_weight, 1.0, spec.renorm_decay)
    if spec.renorm_decay == 1.0:
        # the averages have no weight yet, so there is nothing to derive the others from
        moving_mean, moving_variance = state.mean, state.variance
    else:
        moving_mean = blend(state.mean, renorm_mean / mean_weight, spec.decay)
        variance = (renorm_stddev / stddev_weight) ** 2 - spec.epsilon
        moving_variance = blend(state.variance, variance, spec.decay)
    return replace(
        state,
        mean=moving_mean,
        variance=moving_variance,
        renorm_mean=renorm_mean,
        renorm_stddev=renorm_stddev,
        renorm_mean_weight=mean_weight,
        renorm_stddev_weight=stddev_weight,
    )


def _blend(old, value, decay: float):
    return old if decay == 1.0 else old - (old - value) * (1.0 - decay)
