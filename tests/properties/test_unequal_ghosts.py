"""Batches that are not a multiple of the ghost size, and averages that each group moves: as in a loop over chunks."""

from dataclasses import replace

import numpy as np
import pytest

import oracle
from batchnorm.layout import plan_layout
from batchnorm.options import Clip, Ghost, Options, Renorm
from oracle_cases import variables_of
from properties.cases import Array, Batch, Case, Step, batches_of, initial_of, judged, spec_of
from properties.compare import assert_same_steps
from properties.runners import Runner

ORDERS = ("interleaved", "contiguous")
# (batch, size): the sizes of the groups
CHUNKS = {
    (10, 4): (4, 4, 2),
    (9, 4): (3, 3, 3),
    (7, 3): (3, 3, 1),
    (3, 8): (3,),
    (5, 2): (2, 2, 1),
    (6, 3): (3, 3),
}
OPTIONS = {
    "plain": {},
    "renorm": {"renorm": Renorm(Clip(0.8, 1.25, 0.5), 0.7)},
    "debiased renorm": {"renorm": Renorm(Clip(0.8, 1.25, 0.5), 0.7, "debiased")},
    "zero-debias": {"debias_mean": True},
    "sample variance": {"variance": "sample"},
    "by group": {"averages": "group", "variance": "sample"},
    "plain operations": {"fused": False},
}
CALLS = {
    "alone": {},
    "weights": {"weights": (10, 1, 1), "weightless": "some"},
    "weights per channel": {"weights": (10, 1, 3)},
    "weights that repeat": {"weights": (1, 2, 1)},
    "adjustment": {"adjustment": ((10, 1, 1), (3,))},
}

# Each option and each call once in both orders, and a few combinations.
ASKED = [
    *((name, "alone", order) for name in OPTIONS for order in ORDERS),
    *(("plain", call, order) for call in CALLS if call != "alone" for order in ORDERS),
    ("renorm", "weights", "interleaved"),
    ("zero-debias", "adjustment", "contiguous"),
    ("by group", "weights", "contiguous"),
    ("by group", "weights per channel", "interleaved"),
]


def members(batch: int, ghost: Ghost) -> list[Array]:
    """The examples of each group, as `Ghost` describes them."""
    groups = -(-batch // ghost.size)
    if ghost.order == "interleaved":
        return [np.arange(batch)[group::groups] for group in range(groups)]
    largest = -(-batch // groups)
    return [np.arange(batch)[at : at + largest] for at in range(0, batch, largest)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sizes", CHUNKS, ids=str)
def test_as_a_loop_over_chunks(runner: Runner, sizes: tuple[int, int], order: str) -> None:
    batch_size, size = sizes
    ghost = Ghost(size, order, "smaller", "group")
    options = Options(axes=(2,), decay=0.8, variance="sample", ghost=ghost)
    case = Case(options, (batch_size, 2, 3), steps=2, seed=3)
    alone = replace(spec_of(options), ghost_size=None, ghost_averages="step")
    batches = batches_of(case)
    state = oracle.init_state(alone, case.shape, *initial_of(case))
    groups = members(batch_size, ghost)
    if order == "contiguous":
        assert tuple(map(len, groups)) == CHUNKS[sizes]
    for step, batch in zip(runner.train(options, initial_of(case), batches), batches, strict=True):
        y, dx, sums = np.empty_like(batch.x), np.empty_like(batch.x), {"dgamma": 0.0, "dbeta": 0.0}
        for group in groups:
            given = state, batch.x[group], batch.gamma, batch.beta
            found = oracle.gradients(alone, *given, batch.dy[group])
            dx[group] = found["dx"]
            sums = {name: value + found[name] for name, value in sums.items()}
            y[group], state = oracle.train_step(alone, *given)
        assert_same_steps(step, Step(y, variables_of(state), {"dx": dx, **sums}))


@pytest.mark.parametrize(("name", "call", "order"), ASKED)
def test_as_a_full_batch_whose_other_examples_have_no_weight(
    runner: Runner, name: str, call: str, order: str
) -> None:
    asked = dict(OPTIONS[name])
    ghost = Ghost(4, order, "smaller", asked.pop("averages", "step"))
    case = Case(
        Options(axes=(2,), decay=0.8, ghost=ghost, **asked), (10, 2, 3), steps=2, seed=4, **CALLS[call]
    )
    batches = batches_of(case)
    full = replace(
        case, shape=(12, 2, 3), options=replace(case.options, ghost=replace(ghost, remainder="refuse"))
    )
    expected = judged(full, [filled(batch) for batch in batches])
    steps = runner.train(case.options, initial_of(case), batches)
    for step, (of_full, _), batch in zip(steps, expected, batches, strict=True):
        gradients = {}
        for gradient in step.gradients:
            like, value = batch.given[gradient], of_full.gradients[gradient]
            gradients[gradient] = cut(value, like)
        assert_same_steps(step, Step(of_full.y[:10], of_full.state, gradients))


def filled(batch: Batch) -> Batch:
    """Two more examples, with any content and no weight."""
    weights = np.ones((10, 1, 1)) if batch.weights is None else batch.weights
    weights = np.broadcast_to(weights, (10, *weights.shape[1:]))
    pair = batch.adjustment
    if pair is not None:
        pair = tuple(longer(each) if each.ndim == 3 else each for each in pair)
    x, dy = np.concatenate([batch.x, np.full((2, 2, 3), 5.0)]), longer(batch.dy)
    return Batch(x, dy, batch.gamma, batch.beta, longer(weights), pair)


def longer(array: Array) -> Array:
    return np.concatenate([array, np.zeros((2, *array.shape[1:]))])


def cut(gradient: Array, like: Array) -> Array:
    if gradient.shape == like.shape:
        return gradient
    gradient = gradient[:10]
    return gradient if like.shape[0] == 10 else gradient.sum(0, keepdims=True)


def test_an_empty_batch_has_no_groups() -> None:
    for order in ORDERS:
        layout = plan_layout((0, 3), (1,), Ghost(4, order, "smaller"))
        assert (layout.ghosts, layout.padding, layout.shape) == (0, 0, (0, 3))


def test_a_batch_that_the_size_divides_is_not_filled() -> None:
    for order in ORDERS:
        assert plan_layout((8, 3), (1,), Ghost(4, order, "smaller")) == plan_layout(
            (8, 3), (1,), Ghost(4, order)
        )
