"""The moving statistics: which there are, how they start, and what one batch does to each.

A state maps the historical names of the variables to arrays. What a step does to it is a list of rules, in order, each
applied to the *current* value of its slot:

    average     v ← v − (v − value)·(1 − decay)
    assignment  v ← value

Faces that own variables apply the same rules, so that two concurrent steps both count.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeGuard

from batchnorm._core.engine import A, Batch, Ops, State
from batchnorm._core.renorm import deviation
from batchnorm.options import Options, Scalar

__all__ = [
    "SCALARS",
    "Rule",
    "advance",
    "decrement",
    "initial_state",
    "moved",
    "replacement",
    "rules",
    "slots",
]

# The slots that are scalars, not [C]: the count of steps and the weights of debiased averages.
SCALARS = ("local_step", "renorm_mean_weight", "renorm_stddev_weight")


class Rule(NamedTuple):
    """What one step does to one slot. `decay` is None for an assignment; `value` sees the slots already updated."""

    slot: str
    value: Callable[[Ops[Any], Options, Mapping[str, Any], Batch[Any]], Any]
    decay: Scalar | None

    @property
    def assigns(self) -> bool:
        """Whether the old value is replaced entirely; v − (v − value) would round the value to the digits of v."""
        return self.decay is None or (_is_number(self.decay) and self.decay == 0.0)


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
    their weights and counts, which are scalars, start at zero. No two slots share an array, because programs change
    arrays in place (NumPy, PyTorch) and donate their memory (JAX).
    """

    def zeros() -> A:
        return ops.zeros_like(mean)

    debiased = options.renorm is not None and options.renorm.form == "debiased"
    start: dict[str, Callable[[], A]] = {
        "moving_mean": lambda: mean,
        "moving_variance": lambda: variance,
        "moving_stddev": lambda: ops.sqrt(variance),
        "renorm_mean": zeros if debiased else lambda: zeros() + mean,
        "renorm_stddev": zeros if debiased else lambda: ops.sqrt(variance),
        "biased": zeros,
    }
    return {name: start.get(name, lambda: ops.sum(zeros(), (0,)))() for name in slots(options)}


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


def advance(ops: Ops[A], options: Options, state: Mapping[str, A], batch: Batch[A]) -> State[A]:
    """The state after one training step, as a new record. A batch without any weight changes nothing."""
    after = dict(state)
    for rule in rules(options):
        after[rule.slot] = moved(ops, options, rule, after[rule.slot], after, batch)
    return after


def moved(
    ops: Ops[A], options: Options, rule: Rule, current: A, state: Mapping[str, A], batch: Batch[A]
) -> A:
    """The value of a slot after the rule."""
    if rule.assigns:
        return replacement(ops, options, rule, current, state, batch)
    return current - decrement(ops, options, rule, current, state, batch)


def decrement(
    ops: Ops[A],
    options: Options,
    rule: Rule,
    current: A,
    state: Mapping[str, A],
    batch: Batch[A],
    share: A | None = None,
) -> A:
    """What to subtract from an average's current value: (v − value)·(1 − decay), or zero if the batch did not count.

    A decay of 1 keeps the value whatever the batch holds, infinities included. One step may represent several
    updates with the same share, if ghost batches move the averages one after another.

    Args:
        share: 1 − decay, if the caller already has it.
    """
    decay: A | float = rule.decay  # pyright: ignore[reportAssignmentType]  # an average has one
    if _is_number(decay) and decay == 1.0:
        return ops.zeros_like(current)
    if batch.updates is not None:
        decay = decay**batch.updates
    change = (current - rule.value(ops, options, state, batch)) * (1.0 - decay if share is None else share)
    if not _is_number(rule.decay):
        change = ops.where(ops.zeros_like(current) + decay < 1.0, change, 0.0)
    return change if batch.has_weight is None else ops.where(_counted(ops, current, batch), change, 0.0)


def replacement(
    ops: Ops[A], options: Options, rule: Rule, current: A, state: Mapping[str, A], batch: Batch[A]
) -> A:
    """What an assignment puts in place of the current value: the same value if the batch did not count."""
    value = rule.value(ops, options, state, batch)
    if rule.decay is not None:
        # A separate array: other slots may take the same value.
        value = ops.zeros_like(current) + value
    return value if batch.has_weight is None else ops.where(_counted(ops, current, batch), value, current)


def _counted(ops: Ops[A], current: A, batch: Batch[A]) -> A:
    """Whether the batch counted, in a shape that fits the slot: a scalar slot counts with any of the channels."""
    if ops.shape(current) != ():
        return batch.has_weight  # pyright: ignore[reportReturnType]
    one = ops.zeros_like(batch.mean) + 1.0
    return ops.sum(ops.where(batch.has_weight, one, 0.0), (0,)) > 0.0  # pyright: ignore[reportArgumentType]


# The values, each of (ops, options, state, batch).


def _mean(_: Ops[A], __: Options, ___: Mapping[str, A], batch: Batch[A]) -> A:
    return batch.mean


def _estimate(_: Ops[A], __: Options, ___: Mapping[str, A], batch: Batch[A]) -> A:
    return batch.stored_variance


def _deviation(ops: Ops[A], options: Options, _: Mapping[str, A], batch: Batch[A]) -> A:
    return deviation(ops, options, batch)


def _one(_: Ops[A], __: Options, ___: Mapping[str, A], ____: Batch[A]) -> float:
    return 1.0


def _next_step(_: Ops[A], __: Options, state: Mapping[str, A], ___: Batch[A]) -> A:
    return state["local_step"] + 1.0


def _debiased_mean(ops: Ops[A], options: Options, state: Mapping[str, A], _: Batch[A]) -> A:
    return _debiased(
        ops, state["biased"], 1.0 - options.decay ** state["local_step"], otherwise=state["moving_mean"]
    )


def _variance_of_stddev(ops: Ops[A], options: Options, state: Mapping[str, A], _: Batch[A]) -> A:
    return ops.maximum(state["moving_stddev"] * state["moving_stddev"] - options.epsilon, 0.0)


def _debiased_renorm_mean(ops: Ops[A], _: Options, state: Mapping[str, A], __: Batch[A]) -> A:
    return _debiased(ops, state["renorm_mean"], state["renorm_mean_weight"], otherwise=state["moving_mean"])


def _debiased_renorm_variance(ops: Ops[A], options: Options, state: Mapping[str, A], _: Batch[A]) -> A:
    weight = state["renorm_stddev_weight"]
    stddev = _debiased(ops, state["renorm_stddev"], weight, otherwise=state["renorm_stddev"])
    return ops.where(
        ops.zeros_like(stddev) + weight > 0.0, stddev * stddev - options.epsilon, state["moving_variance"]
    )


def _debiased(ops: Ops[A], average: A, weight: A, otherwise: A) -> A:
    """average / weight; or `otherwise` if the average has no weight yet, as with a decay of 1."""
    weight = ops.zeros_like(average) + weight
    taken = weight > 0.0
    return ops.where(taken, average / ops.where(taken, weight, 1.0), otherwise)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float))
