"""What weights of zero, equal weights and whole numbers as weights mean."""

from dataclasses import replace

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from properties.cases import Case, batches_of
from properties.changes import EXAMPLES, NO_GHOSTS, on_examples, one_step
from properties.compare import ROUNDING, assert_same, assert_same_steps
from properties.runners import Runner
from properties.strategies import cases, per_example
from tolerances import assert_close


def test_weights_of_zero_are_deletion(eager: Runner) -> None:
    @settings(max_examples=min(EXAMPLES, eager.examples))
    @given(cases(**NO_GHOSTS, adjustment=None, weightless="some", steps=1))
    def check(case: Case) -> None:
        case = replace(case, weights=per_example(case.shape))
        (batch,) = batches_of(case)
        alive = batch.weights.reshape(-1) > 0
        assume(alive.any())
        full = one_step(eager, case, batch)
        less = one_step(eager, case, on_examples(batch, lambda array: array[alive]))
        assert_close(full.y[alive], less.y, "float64", "y", within=ROUNDING)
        assert_same(full.state, less.state, "state")

    check()


def test_what_has_no_weight_changes_nothing_else(eager: Runner) -> None:
    @settings(max_examples=min(EXAMPLES, eager.examples))
    @given(cases(weightless="some", steps=1))
    def check(case: Case) -> None:
        case = replace(case, weights=case.weights or case.shape)
        (batch,) = batches_of(case)
        absent = np.broadcast_to(batch.weights == 0, case.shape)
        step = one_step(eager, case, batch)
        other = one_step(eager, case, replace(batch, x=np.where(absent, 7.0, batch.x)))
        assert_close(
            np.where(absent, 0, step.y), np.where(absent, 0, other.y), "float64", "y", within=ROUNDING
        )
        assert_same(step.state, other.state, "state")

    check()


def test_equal_weights_are_none(eager: Runner) -> None:
    @settings(max_examples=min(EXAMPLES, eager.examples))
    @given(cases(weights=None, steps=1), st.sampled_from([0.25, 1.0, 3.0]))
    def check(case: Case, weight: float) -> None:
        (batch,) = batches_of(case)
        weights = np.full(per_example(case.shape), weight)
        weighted = one_step(eager, case, replace(batch, weights=weights))
        gradients = {name: value for name, value in weighted.gradients.items() if name != "dweights"}
        assert_same_steps(replace(weighted, gradients=gradients), one_step(eager, case, batch))

    check()


def test_integer_weights_are_repetition(eager: Runner) -> None:
    @settings(max_examples=min(EXAMPLES, eager.examples))
    @given(
        cases(**NO_GHOSTS, adjustment=None, weights=None, steps=1), st.lists(st.integers(0, 3), min_size=4)
    )
    def check(case: Case, drawn: list[int]) -> None:
        # Of the sample variance weights of importance say something else than repeated examples.
        options = replace(case.options, variance="population")
        counts = np.array(drawn[: case.shape[0]])
        assume(counts.any())
        (batch,) = batches_of(case)
        weights = counts.astype(np.float64).reshape(per_example(case.shape))
        weighted = one_step(eager, case, replace(batch, weights=weights), options)
        repeated = one_step(eager, case, on_examples(batch, lambda a: np.repeat(a, counts, axis=0)), options)
        assert_close(np.repeat(weighted.y, counts, axis=0), repeated.y, "float64", "y", within=ROUNDING)
        assert_same(weighted.state, repeated.state, "state")

    check()
