"""Synchronized replicas, in threads on the NumPy engine: together they are one large batch."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from threading import Barrier, local

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchnorm._core.composed import Composed
from batchnorm._core.engine import Inputs
from batchnorm._core.gradient import backward
from batchnorm._core.state import advance, initial_state
from batchnorm._core.step import normalize
from batchnorm._engines.numpy import ops
from batchnorm.layout import plan_layout
from batchnorm.options import Ghost, Options
from properties.cases import Array, Batch, Case, Step, batches_of, initial_of
from properties.changes import BY_POSITION
from properties.compare import ROUNDING, assert_same
from properties.runners import NumPy, step_of
from properties.strategies import cases
from tolerances import assert_close

SEVERAL = {"ghosts": (None,), "keeps_batch": False, "adjustment": None, "steps": 1}


class Replicas:
    """So many threads that add up what each hands in."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.barrier = Barrier(count, timeout=60)
        self.handed_in: dict[int, tuple[Array, ...]] = {}
        self.own = local()

    def sum(self, values: tuple[Array, ...]) -> tuple[Array, ...]:
        self.handed_in[self.own.rank] = values
        self.barrier.wait()
        everyones = [self.handed_in[rank] for rank in range(self.count)]
        totals = tuple(sum(column) for column in zip(*everyones, strict=True))
        self.barrier.wait()
        return totals

    def train(self, options: Options, moving, batches: list[Batch]) -> list[Step]:
        engine = Composed(ops, lambda *_: None, self.sum)

        @np.errstate(divide="ignore", invalid="ignore")
        def one(rank: int) -> Step:
            self.own.rank = rank
            batch = batches[rank]
            state = initial_state(ops, options, *moving)
            layout = plan_layout(batch.x.shape, options.axes, options.ghost)
            given = batch.x, batch.gamma, batch.beta, batch.weights, state
            inputs = Inputs(*given, residual=batch.residual)
            y, stats, saved = normalize(engine, options, layout, inputs)
            gradients = backward(engine, options, layout, inputs, saved, batch.dy)._asdict()
            given = {f"d{name}": value for name, value in gradients.items() if value is not None}
            return step_of(y, advance(ops, options, state, stats), given)

        with ThreadPoolExecutor(self.count) as threads:
            return list(threads.map(one, range(self.count)))


def check(case: Case, whole: Batch, options: Options, parts: list[Batch], order: Array) -> None:
    """The replicas' results, put together in `order`, are those of the whole batch."""
    synchronized = replace(options, synchronized=True)
    steps = Replicas(len(parts)).train(synchronized, initial_of(case), parts)
    one = NumPy().train(replace(case.options, synchronized=False), initial_of(case), [whole])[0]
    for step in steps:
        assert_same(step.state, one.state, "state")
    assert_close(np.concatenate([s.y for s in steps]), one.y[order], "float64", "y", within=ROUNDING)
    for name, value in one.gradients.items():
        each = [step.gradients[name] for step in steps]
        if name in BY_POSITION or (name == "dweights" and len(whole.weights) == len(whole.x)):
            got, want = np.concatenate(each), value[order]
        else:
            # Gradients of what the replicas share stay local: data-parallel training adds them up.
            got, want = sum(each), value
        assert_close(got, want, "float64", name, within=ROUNDING)


@settings(max_examples=60)
@given(cases(**SEVERAL), st.integers(2, 3), st.randoms(use_true_random=False))
def test_replicas_are_one_batch(case: Case, count: int, random) -> None:
    """Of unequal sizes, some without any example or any weight."""
    (whole,) = batches_of(case)
    examples = case.shape[0]
    cuts = [0, *sorted(random.randint(0, examples) for _ in range(count - 1)), examples]
    shared = case.weights is not None and case.weights[0] != examples

    def part(start: int, stop: int) -> Batch:
        weights = whole.weights if whole.weights is None or shared else whole.weights[start:stop]
        residual = None if whole.residual is None else whole.residual[start:stop]
        return replace(
            whole, x=whole.x[start:stop], dy=whole.dy[start:stop], weights=weights, residual=residual
        )

    parts = [part(start, stop) for start, stop in pairwise(cuts)]
    check(case, whole, case.options, parts, np.arange(examples))


@pytest.mark.parametrize("order", ["interleaved", "contiguous"])
@pytest.mark.parametrize("weights", [None, (12, 1, 1)], ids=["", "weighted"])
def test_ghost_groups_join_those_of_the_other_replicas(order: str, weights) -> None:
    """With two replicas, ghost batches of 2 are the whole batch's of 4."""
    case = Case(
        Options((-1,), ghost=Ghost(4, order)), (12, 2, 3), weights=weights, weightless="some", steps=1
    )
    (whole,) = batches_of(case)
    groups = np.arange(12).reshape(4, 3).T if order == "interleaved" else np.arange(12).reshape(3, 4)
    halves = [groups[:, :2], groups[:, 2:]]
    orders = [(half.T if order == "interleaved" else half).reshape(-1) for half in halves]

    def part(rows: Array) -> Batch:
        chosen = None if whole.weights is None else whole.weights[rows]
        return replace(whole, x=whole.x[rows], dy=whole.dy[rows], weights=chosen)

    options = replace(case.options, ghost=Ghost(2, order))
    check(case, whole, options, [part(rows) for rows in orders], np.concatenate(orders))
