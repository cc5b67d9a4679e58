"""Statistics between the array passes: merging replicas and ghost groups, and what enters the moving averages."""

from collections.abc import Sequence

from batchnorm._core.engine import A, Batch, Engine, Moments, Ops, State
from batchnorm.layout import Layout, Size
from batchnorm.options import Options

__all__ = ["average", "bessel", "finite", "merge_replicas", "or_moving", "summarize"]


def finite(ops: Ops[A], value: A) -> A:
    """The value, or zero if it is infinite or not a number: an infinite mean needs no correction."""
    return ops.where(value - value > -1.0, value, 0.0)


def merge_replicas(engine: Engine[A], moments: Moments[A]) -> Moments[A]:
    """Moments over all replicas from each one's own, by their true weights (Chan et al. 1979).

    W = ΣW_k      μ = ΣW_k·μ_k / W      σ² = ΣW_k·(σ_k² + (μ_k − μ)²) / W

    The computed μ has rounding error. It serves as a center c that all replicas share; with δ_k = μ_k − c,

    μ = c + δ      δ = ΣW_k·δ_k / W      σ² = ΣW_k·(σ_k² + δ_k²) / W − δ²
    """
    ops = engine.ops
    zeros = ops.zeros_like(moments.mean)
    own = zeros + moments.total
    squares = own * own / ops.where(own > 0.0, zeros + moments.effective_count, 1.0)
    total, square = engine.sum_over_replicas((own, squares))
    alive = total > 0.0
    share = own / ops.where(alive, total, 1.0)
    near = ops.where(own > 0.0, share * ops.stop_gradient(moments.mean), 0.0)
    center = ops.stop_gradient(engine.sum_over_replicas((near,))[0])
    apart = (moments.center - center) + moments.offset
    spread = ops.where(own > 0.0, share * (moments.variance + apart * apart), 0.0)
    moved = ops.where(own > 0.0, share * apart, 0.0)
    offset, spread = engine.sum_over_replicas((moved, spread))
    offset, variance = finite(ops, offset), ops.maximum(spread - offset * offset, 0.0)
    effective = total * total / ops.where(alive, square, 1.0)
    return Moments(total, effective, center + offset, variance, center, offset)


def summarize(ops: Ops[A], options: Options, moments: Moments[A], layout: Layout) -> Batch[A]:
    """One statistic per channel from those of the groups: the plain average over the groups that have weight.

    The spread between the groups is not part of it; ghost batches leave it out on purpose. If the groups move the
    averages one after another, the result is an average in which each group counts `decay` times as much as the next.
    """
    effective, mean, variance = moments.effective_count, moments.mean, moments.variance
    estimate = variance
    if options.variance == "sample":
        estimate = variance * bessel(ops, effective)
    values = mean, variance, estimate
    if options.ghost is not None and options.ghost.averages == "group" and not _is_one(layout.ghosts):
        return _in_turn(ops, options, values, _alive(ops, moments))
    (mean, variance, estimate), counted = average(ops, moments, values, layout)
    return Batch(mean, variance, estimate, counted)


def average(
    ops: Ops[A], moments: Moments[A], values: Sequence[A], layout: Layout
) -> tuple[Sequence[A], A | None]:
    """Plain averages, [C], of the groups' values over the groups that have weight, and which channels have any.

    The latter is None if all groups are known to have weight.
    """
    alive = _alive(ops, moments)
    if _is_one(layout.ghosts):
        values = [ops.reshape(value, (layout.channels,)) for value in values]
        return values, None if alive is None else ops.reshape(alive, (-1,))
    if alive is None and isinstance(layout.ghosts, int) and layout.ghosts > 0:
        return [ops.sum(value, (0,)) / float(layout.ghosts) for value in values], None
    # An empty batch has no groups, so nothing is alive and nothing is counted.
    ones = ops.zeros_like(values[0]) + 1.0
    alive = ones > 0.0 if alive is None else alive
    groups = ops.sum(ops.where(alive, ones, 0.0), (0,))
    counted = groups > 0.0
    divisor = ops.where(counted, groups, 1.0)
    return [ops.sum(ops.where(alive, value, 0.0), (0,)) / divisor for value in values], counted


def _in_turn(ops: Ops[A], options: Options, values: tuple[A, A, A], alive: A | None) -> Batch[A]:
    """G updates in turn, v ← v − (v − value_k)·(1 − d), as a single update with a share of 1 − d^n.

    value = Σ d^(later_k)·value_k / Σ d^(later_k)      n groups have weight; later_k of them come after group k
    """
    mean = values[0]
    present = ops.zeros_like(mean) + 1.0
    if alive is not None:
        present = ops.where(alive, present, 0.0)
    updates = ops.sum(present, (0,))
    later = ops.reshape(updates, (1, -1)) - ops.cumulate(present)
    share = present * options.decay**later
    total = ops.sum(share, (0,))
    counted = updates > 0.0
    divisor = ops.where(counted, total, 1.0)
    mean, variance, estimate = (
        ops.sum(ops.where(present > 0.0, share * value, 0.0), (0,)) / divisor for value in values
    )
    return Batch(mean, variance, estimate, counted, updates)


def or_moving(
    ops: Ops[A], moments: Moments[A], r: A | None, d: A | None, state: State[A]
) -> tuple[Moments[A], A | None, A | None]:
    """Moments, r and d to normalize each group by: the moving statistics for a group without any weight.

    If only some channels of a group have no weight, these keep a mean and a variance of zero, as in the originals.
    """
    alive = _alive(ops, moments)
    if alive is None:
        return moments, r, d
    r = None if r is None else ops.where(alive, r, 1.0)
    d = None if d is None else ops.where(alive, d, 0.0)
    channels = ops.sum(ops.where(alive, ops.zeros_like(moments.mean) + 1.0, 0.0), (1,))
    group = ops.reshape(channels, (-1, 1)) > 0.0
    mean = ops.where(group, moments.mean, ops.stop_gradient(state["moving_mean"]))
    variance = ops.where(group, moments.variance, ops.stop_gradient(state["moving_variance"]))
    center = ops.where(group, moments.center, mean)
    offset = ops.where(group, moments.offset, 0.0)
    return moments._replace(mean=mean, variance=variance, center=center, offset=offset), r, d


def bessel(ops: Ops[A], effective: A | float) -> A | float:
    """N / (N − 1), and 1 for a single number, whose variance is zero."""
    if isinstance(effective, (int, float)):
        return effective / max(effective - 1.0, 1.0)
    return effective / ops.maximum(effective - 1.0, 1.0)


def _alive(ops: Ops[A], moments: Moments[A]) -> A | None:
    """Which groups have weight, broadcasting to [G, C]; None if all are known to."""
    total = moments.total
    if not isinstance(total, (int, float)):
        return ops.reshape(total, (1, 1)) > 0.0 if ops.shape(total) == () else total > 0.0
    return None if total > 0.0 else ops.zeros_like(moments.mean) > 0.0


def _is_one(groups: Size) -> bool:
    return isinstance(groups, int) and groups == 1
