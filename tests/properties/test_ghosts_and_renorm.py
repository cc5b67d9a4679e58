"""Ghost batches against plain calls, renorm against none, one estimator of the variance against the other."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from batchnorm.options import Clip, Ghost, Renorm
from properties.cases import Case, Step, batches_of
from properties.changes import BY_POSITION, EXAMPLES, NO_GHOSTS, on_examples, one_step
from properties.compare import assert_same_steps
from properties.runners import Runner
from properties.strategies import cases
from tolerances import assert_close


def test_one_ghost_group_is_plain(eager: Runner) -> None:
    @settings(max_examples=min(EXAMPLES, eager.examples))
    @given(cases(**NO_GHOSTS, steps=1), st.sampled_from(["interleaved", "contiguous"]))
    def check(case: Case, order: str) -> None:
        (batch,) = batches_of(case)
        ghosts = replace(case.options, ghost=Ghost(case.shape[0], order))
        assert_same_steps(one_step(eager, case, batch, ghosts), one_step(eager, case, batch))

    check()


def test_contiguous_ghost_batches_are_separate_calls(eager: Runner) -> None:
    @settings(max_examples=min(EXAMPLES, eager.examples))
    @given(cases(ghosts=(1, 2, 3), keeps_batch=False, forms=(None,), weights=None, adjustment=None, steps=1))
    def check(case: Case) -> None:
        size = case.options.ghost.size
        options = replace(case.options, ghost=Ghost(size, "contiguous"))
        alone = replace(options, ghost=None)
        (batch,) = batches_of(case)
        together = one_step(eager, case, batch, options)
        parts = [
            one_step(eager, case, on_examples(batch, lambda array, at=at: array[at : at + size]), alone)
            for at in range(0, case.shape[0], size)
        ]
        gradients = {
            name: (np.concatenate if name in BY_POSITION else sum)([part.gradients[name] for part in parts])
            for name in together.gradients
        }
        # What is stored is linear in the batch's statistics, of which the groups' average is taken.
        state = {name: np.mean([part.state[name] for part in parts], axis=0) for name in together.state}
        assert_same_steps(together, Step(np.concatenate([part.y for part in parts]), state, gradients))

    check()


def test_ghost_orders_differ_by_a_permutation(eager: Runner) -> None:
    @settings(max_examples=min(EXAMPLES, eager.examples))
    @given(cases(ghosts=(1, 2, 3), keeps_batch=False, adjustment=None, steps=1))
    def check(case: Case) -> None:
        size = case.options.ghost.size
        # Group k of the interleaved order is k, k + groups, ...
        order = np.arange(case.shape[0]).reshape(size, -1).T.reshape(-1)
        (batch,) = batches_of(case)
        interleaved, contiguous = (
            replace(case.options, ghost=Ghost(size, name)) for name in ("interleaved", "contiguous")
        )
        plain = one_step(eager, case, batch, interleaved)
        moved = one_step(eager, case, on_examples(batch, lambda array: array[order]), contiguous)
        gradients = dict(plain.gradients)
        gradients |= {name: gradients[name][order] for name in BY_POSITION if name in gradients}
        if case.weights is not None and case.weights[0] > 1:
            gradients["dweights"] = gradients["dweights"][order]
        assert_same_steps(moved, replace(plain, y=plain.y[order], gradients=gradients))

    check()


def test_renorm_clipped_to_nothing_is_plain(eager: Runner) -> None:
    @settings(max_examples=min(EXAMPLES, eager.examples))
    @given(cases(forms=(None,), steps=1), st.sampled_from(["current", "debiased"]))
    def check(case: Case, form: str) -> None:
        ghost = case.options.ghost
        ghost = None if ghost is None else replace(ghost, averages="step")
        options = replace(case.options, variance="population", debias_mean=False, ghost=ghost)
        clipped = replace(options, renorm=Renorm(Clip(1.0, 1.0, 0.0), form=form))
        (batch,) = batches_of(case)
        renormed, plain = one_step(eager, case, batch, clipped), one_step(eager, case, batch, options)
        if form == "current":
            assert_close(renormed.state["moving_mean"], plain.state["moving_mean"], "float64", "moving mean")
        assert_same_steps(replace(renormed, state=plain.state), plain)

    check()


def test_the_sample_variance_is_a_factor_in_the_moving_variance_alone(eager: Runner) -> None:
    @settings(max_examples=min(EXAMPLES, eager.examples))
    @given(cases(forms=(None,), weights=None, steps=1))
    def check(case: Case) -> None:
        population, sample = (
            replace(case.options, variance=name, decay=0.0) for name in ("population", "sample")
        )
        ghost = case.options.ghost
        examples = case.shape[0] if ghost is None else ghost.size
        count = int(np.prod(case.shape)) // case.channels // case.shape[0] * examples
        if 0 in case.axes:
            count = int(np.prod(case.shape)) // case.channels
        (batch,) = batches_of(case)
        plain, scaled = one_step(eager, case, batch, population), one_step(eager, case, batch, sample)
        state = dict(plain.state)
        state["moving_variance"] = state["moving_variance"] * count / max(count - 1, 1)
        assert_same_steps(scaled, replace(plain, state=state))

    check()
