"""The moving statistics: which there are, how they start, and what one batch does to each.

A state maps the historical names of the variables to arrays. What a step does to it is a list of rules, in order, each
applied to the *current* value of its slot:

    average     v ← v − (v − value)·(1 − decay)
    assignment  v ← value

Faces that own variables walk the same rules, so that two steps that ran side by side both count.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from batchnorm._core.renorm import deviation
from batchnorm._engines.protocol import A, Batch, Ops, State
from batchnorm.options import Options, Scalar

__all__ = ["Rule", "advance", "decrement", "initial_state", "replacement", "rules", "slots"]


class Rule(NamedTuple):
    """What one step does to one slot. `decay` is None for an assignment; `value` sees the slots already updated."""

    slot: str
    value: Callable[[Ops[Any], Options, State[Any], Batch[Any]], Any]
    decay: Scalar | None


def slots(options: Options) -> tuple[str, ...]:
    """Names of the moving statistics, in the order in which the originals create them."""
    names = ["moving_mean", "moving_variance"]
    if options.renorm is not None and options.renorm.form == "current":
        names += ["moving_stddev", "renorm_mean", "renorm_stddev"]
    elif options.renorm is not None:
        names += ["renorm_mean", "renorm_mean_weight", "renorm_stddev", "renorm_stddev_weight"]
    if options.debias_mean:
        names += ["biased", "local_step"]
    return tuple(names)


def initial_state(ops: Ops[A], options: Options, mean: A, variance: A) -> State[A]:
    """Every slot, from the initial moving mean and variance, each [C].

    The deviations start as √variance and the current form's renorm mean as the moving mean; the debiased averages and
    their weights and counts, which are scalars, start at zero.
    """
    zeros = ops.zeros_like(mean)
    deviation_ = ops.sqrt(variance)
    debiased = options.renorm is not None and options.renorm.form == "debiased"
    start = {
        "moving_mean": mean,
        "moving_variance": variance,
        "moving_stddev": deviation_,
        "renorm_mean": zeros if debiased else mean,
        "renorm_stddev": zeros if debiased else deviation_,
        "biased": zeros,
    }
    scalar = ops.sum(zeros, (0,))
    return {name: start.get(name, scalar) for name in slots(options)}


def rules(options: Options) -> tuple[Rule, ...]:
    """What a training step does to the state, in order."""
    decay, renorm = options.decay, options.renorm
    if renorm is not None and renorm.form == "debiased":
        return (
            Rule("renorm_mean", _mean, renorm.decay),
            Rule("renorm_mean_weight", _one, renorm.decay),
            Rule("renorm_stddev", _deviation, renorm.decay),
            Rule("renorm_stddev_weight", _one, renorm.decay),
            Rule("moving_mean", _debiased_renorm_mean, decay),
            Rule("moving_variance", _debiased_renorm_variance, decay),
        )
    mean = (
        (
            Rule("biased", _mean, decay),
            Rule("local_step", _next_step, None),
            Rule("moving_mean", _debiased_mean, None),
        )
        if options.debias_mean
        else (Rule("moving_mean", _mean, decay),)
    )
    if renorm is None:
        return (*mean, Rule("moving_variance", _estimate, decay))
    return (
        Rule("renorm_mean", _mean, renorm.decay),
        Rule("renorm_stddev", _deviation, renorm.decay),
        *mean,
        Rule("moving_stddev", _deviation, decay),
        Rule("moving_variance", _variance_of_stddev, None),
    )


def advance(ops: Ops[A], options: Options, state: State[A], batch: Batch[A]) -> State[A]:
    """The state after one training step, as a new record. A batch without any weight changes nothing."""
    after = dict(state)
    for rule in rules(options):
        current = after[rule.slot]
        if rule.decay is None:
            after[rule.slot] = replacement(ops, options, rule, current, after, batch)
        else:
            after[rule.slot] = current - decrement(ops, options, rule, current, after, batch)
    return after


def decrement(ops: Ops[A], options: Options, rule: Rule, current: A, state: State[A], batch: Batch[A]) -> A:
    """What an average's current value loses: (v − value)·(1 − decay), and nothing where the batch did not count."""
    decay: A | float = rule.decay  # pyright: ignore[reportAssignmentType]  # an average has one
    change = (current - rule.value(ops, options, state, batch)) * (1.0 - decay)
    return change if batch.counted is None else ops.where(_counted(ops, current, batch), change, 0.0)


def replacement(ops: Ops[A], options: Options, rule: Rule, current: A, state: State[A], batch: Batch[A]) -> A:
    """What an assignment puts in place of the current value: the same value where the batch did not count."""
    value = rule.value(ops, options, state, batch)
    return value if batch.counted is None else ops.where(_counted(ops, current, batch), value, current)


def _counted(ops: Ops[A], current: A, batch: Batch[A]) -> A:
    """Whether the batch counted, in a shape that fits the slot: a scalar slot counts with any of the channels."""
    if ops.shape(current) != ():
        return batch.counted  # pyright: ignore[reportReturnType]
    one = ops.zeros_like(batch.mean) + 1.0
    return ops.sum(ops.where(batch.counted, one, 0.0), (0,)) > 0.0  # pyright: ignore[reportArgumentType]


# The values, each of (ops, options, state, batch).


def _mean(_: Ops[A], __: Options, ___: State[A], batch: Batch[A]) -> A:
    return batch.mean


def _estimate(_: Ops[A], __: Options, ___: State[A], batch: Batch[A]) -> A:
    return batch.estimate


def _deviation(ops: Ops[A], options: Options, _: State[A], batch: Batch[A]) -> A:
    return deviation(ops, options, batch)


def _one(_: Ops[A], __: Options, ___: State[A], ____: Batch[A]) -> float:
    return 1.0


def _next_step(_: Ops[A], __: Options, state: State[A], ___: Batch[A]) -> A:
    return state["local_step"] + 1.0


def _debiased_mean(_: Ops[A], options: Options, state: State[A], __: Batch[A]) -> A:
    return state["biased"] / (1.0 - options.decay ** state["local_step"])


def _variance_of_stddev(ops: Ops[A], options: Options, state: State[A], _: Batch[A]) -> A:
    return ops.maximum(state["moving_stddev"] * state["moving_stddev"] - options.epsilon, 0.0)


def _debiased_renorm_mean(_: Ops[A], __: Options, state: State[A], ___: Batch[A]) -> A:
    return state["renorm_mean"] / state["renorm_mean_weight"]


def _debiased_renorm_variance(_: Ops[A], options: Options, state: State[A], __: Batch[A]) -> A:
    stddev = state["renorm_stddev"] / state["renorm_stddev_weight"]
    return stddev * stddev - options.epsilon
