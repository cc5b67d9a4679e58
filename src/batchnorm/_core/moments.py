"""Statistics between the array passes: merging replicas and ghost groups, and what enters the moving averages."""

from batchnorm._engines.protocol import A, Batch, Engine, Moments, Ops, State
from batchnorm.layout import Layout
from batchnorm.options import Options

__all__ = ["merge_replicas", "or_moving", "summarize"]


def merge_replicas(engine: Engine[A], moments: Moments[A]) -> Moments[A]:
    """Moments over all replicas from each one's own, by their true weights (Chan et al. 1979).

    W = ΣW_k      μ = ΣW_k·μ_k / W      σ² = ΣW_k·(σ_k² + (μ_k − μ)²) / W
    """
    ops = engine.ops
    zeros = ops.zeros_like(moments.mean)
    own = zeros + moments.total
    squares = own * own / ops.where(own > 0.0, zeros + moments.effective, 1.0)
    total, square = engine.sum_over_replicas((own, squares))
    alive = total > 0.0
    share = own / ops.where(alive, total, 1.0)
    mean = engine.sum_over_replicas((ops.where(own > 0.0, share * moments.mean, 0.0),))[0]
    offset = moments.mean - mean
    spread = ops.where(own > 0.0, share * (moments.variance + offset * offset), 0.0)
    variance = engine.sum_over_replicas((spread,))[0]
    return Moments(total, total * total / ops.where(alive, square, 1.0), mean, variance)


def summarize(ops: Ops[A], options: Options, moments: Moments[A], layout: Layout) -> Batch[A]:
    """One statistic per channel from those of the groups: their plain average, over the groups that have weight.

    The spread between the groups is not part of it; ghost batches leave it out on purpose.
    """
    _, effective, mean, variance = moments
    estimate = variance
    if options.variance == "sample":
        estimate = variance * _bessel(ops, effective)
    alive = _alive(ops, moments)
    values = (mean, variance, estimate)
    if isinstance(layout.ghosts, int) and layout.ghosts == 1:
        mean, variance, estimate = (ops.reshape(value, (layout.channels,)) for value in values)
        return Batch(mean, variance, estimate, None if alive is None else ops.reshape(alive, (-1,)))
    if alive is None and isinstance(layout.ghosts, int) and layout.ghosts > 0:
        mean, variance, estimate = (ops.sum(value, (0,)) / float(layout.ghosts) for value in values)
        return Batch(mean, variance, estimate, None)
    # An empty batch has no group at all: then nothing is alive, and nothing is counted.
    alive = ops.zeros_like(mean) + 1.0 > 0.0 if alive is None else alive
    groups = ops.sum(ops.where(alive, ops.zeros_like(mean) + 1.0, 0.0), (0,))
    counted = groups > 0.0
    divisor = ops.where(counted, groups, 1.0)
    mean, variance, estimate = (ops.sum(ops.where(alive, value, 0.0), (0,)) / divisor for value in values)
    return Batch(mean, variance, estimate, counted)


def or_moving(
    ops: Ops[A], moments: Moments[A], r: A | None, d: A | None, state: State[A]
) -> tuple[A, A, A | None, A | None]:
    """Mean, variance, r and d to normalize each group by: the moving statistics where a group has no weight at all.

    A channel that alone has no weight in its group keeps a mean and a variance of zero, as in the originals.
    """
    alive = _alive(ops, moments)
    if alive is None:
        return moments.mean, moments.variance, r, d
    r = None if r is None else ops.where(alive, r, 1.0)
    d = None if d is None else ops.where(alive, d, 0.0)
    channels = ops.sum(ops.where(alive, ops.zeros_like(moments.mean) + 1.0, 0.0), (1,))
    group = ops.reshape(channels, (-1, 1)) > 0.0
    mean = ops.where(group, moments.mean, ops.stop_gradient(state["moving_mean"]))
    variance = ops.where(group, moments.variance, ops.stop_gradient(state["moving_variance"]))
    return mean, variance, r, d


def _bessel(ops: Ops[A], effective: A | float) -> A | float:
    """N / (N − 1), and 1 for a single number, whose variance is zero."""
    if isinstance(effective, (int, float)):
        return effective / max(effective - 1.0, 1.0)
    return effective / ops.maximum(effective - 1.0, 1.0)


def _alive(ops: Ops[A], moments: Moments[A]) -> A | None:
    """Which groups have weight, broadcasting to [G, C]; None where all are known to."""
    total = moments.total
    if not isinstance(total, (int, float)):
        return ops.reshape(total, (1, 1)) > 0.0 if ops.shape(total) == () else total > 0.0
    return None if total > 0.0 else ops.zeros_like(moments.mean) > 0.0
