"""What must change nothing, or change the result in a known way, whatever the numbers are. In float64."""

from dataclasses import replace

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from batchnorm.options import Clip, Ghost, Options, Renorm
from properties.cases import Array, Batch, Case, Step, batches_of, initial_of
from properties.compare import ROUNDING, assert_same, assert_same_steps
from properties.runners import Runner
from properties.strategies import cases, per_example
from tolerances import assert_close

NO_GHOSTS = {"ghosts": (None,), "keeps_batch": False}
EXAMPLES = 25


def one_step(runner: Runner, case: Case, batch: Batch, options: Options | None = None) -> Step:
    return runner.train(options or case.options, initial_of(case), [batch])[0]


def on_examples(batch: Batch, change) -> Batch:
    """The batch with `change` applied to everything that has one entry per example."""

    def of(array: Array | None) -> Array | None:
        full = array is not None and array.ndim == batch.x.ndim and len(array) == len(batch.x)
        return change(array) if full else array

    pair = batch.adjustment
    moved = None if pair is None else tuple(map(of, pair))
    return replace(batch, x=of(batch.x), dy=of(batch.dy), weights=of(batch.weights), adjustment=moved)


def test_the_order_of_examples_does_not_matter(eager: Runner) -> None:
    @settings(max_examples=EXAMPLES)
    @given(cases(**NO_GHOSTS, adjustment=None, steps=1), st.randoms(use_true_random=False))
    def check(case: Case, random) -> None:
        (batch,) = batches_of(case)
        order = random.sample(range(case.shape[0]), case.shape[0])
        whole = case.weights is not None and case.weights[0] > 1
        plain = one_step(eager, case, batch)
        mixed = one_step(eager, case, on_examples(batch, lambda array: array[order]))
        gradients = dict(plain.gradients)
        gradients["dx"] = gradients["dx"][order]
        if whole:
            gradients["dweights"] = gradients["dweights"][order]
        assert_same_steps(mixed, replace(plain, y=plain.y[order], gradients=gradients))

    check()


def test_the_order_of_axes_does_not_matter(eager: Runner) -> None:
    @settings(max_examples=EXAMPLES)
    @given(cases(ghosts=(None,), adjustment=None, steps=1), st.randoms(use_true_random=False))
    def check(case: Case, random) -> None:
        (batch,) = batches_of(case)
        order = random.sample(range(len(case.shape)), len(case.shape))
        axes = tuple(order.index(axis) for axis in case.axes)
        kept = [case.axes.index(axis) for axis in order if axis in case.axes]

        def moved(array: Array | None) -> Array | None:
            return None if array is None else array.transpose(order)

        def reordered(statistic: Array | None) -> Array | None:
            """Channels are counted along the kept axes in the order in which they lie."""
            if statistic is None or not statistic.ndim:
                return statistic
            return statistic.reshape([case.shape[axis] for axis in case.axes]).transpose(kept).reshape(-1)

        plain = one_step(eager, case, batch)
        turned = Batch(
            moved(batch.x),
            moved(batch.dy),
            reordered(batch.gamma),
            reordered(batch.beta),
            moved(batch.weights),
        )
        start = tuple(map(reordered, initial_of(case)))
        step = eager.train(replace(case.options, axes=axes), start, [turned])[0]
        gradients = {
            name: moved(value) if name in ("dx", "dweights") else reordered(value)
            for name, value in plain.gradients.items()
        }
        state = {name: reordered(value) for name, value in plain.state.items()}
        assert_same_steps(step, Step(moved(plain.y), state, gradients))

    check()


def test_weights_of_zero_are_deletion(eager: Runner) -> None:
    @settings(max_examples=EXAMPLES)
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
    @settings(max_examples=EXAMPLES)
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
    @settings(max_examples=EXAMPLES)
    @given(cases(weights=None, steps=1), st.sampled_from([0.25, 1.0, 3.0]))
    def check(case: Case, weight: float) -> None:
        (batch,) = batches_of(case)
        weights = np.full(per_example(case.shape), weight)
        weighted = one_step(eager, case, replace(batch, weights=weights))
        gradients = {name: value for name, value in weighted.gradients.items() if name != "dweights"}
        assert_same_steps(replace(weighted, gradients=gradients), one_step(eager, case, batch))

    check()


def test_integer_weights_are_repetition(eager: Runner) -> None:
    @settings(max_examples=EXAMPLES)
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


def test_one_ghost_group_is_plain(eager: Runner) -> None:
    @settings(max_examples=EXAMPLES)
    @given(cases(**NO_GHOSTS, steps=1), st.sampled_from(["interleaved", "contiguous"]))
    def check(case: Case, order: str) -> None:
        (batch,) = batches_of(case)
        ghosts = replace(case.options, ghost=Ghost(case.shape[0], order))
        assert_same_steps(one_step(eager, case, batch, ghosts), one_step(eager, case, batch))

    check()


def test_contiguous_ghost_batches_are_separate_calls(eager: Runner) -> None:
    @settings(max_examples=EXAMPLES)
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
            name: sum(part.gradients[name] for part in parts) for name in together.gradients if name != "dx"
        }
        gradients["dx"] = np.concatenate([part.gradients["dx"] for part in parts])
        # What is stored is linear in the batch's statistics, of which the groups' average is taken.
        state = {name: np.mean([part.state[name] for part in parts], axis=0) for name in together.state}
        assert_same_steps(together, Step(np.concatenate([part.y for part in parts]), state, gradients))

    check()


def test_ghost_orders_differ_by_a_permutation(eager: Runner) -> None:
    @settings(max_examples=EXAMPLES)
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
        gradients["dx"] = gradients["dx"][order]
        if case.weights is not None and case.weights[0] > 1:
            gradients["dweights"] = gradients["dweights"][order]
        assert_same_steps(moved, replace(plain, y=plain.y[order], gradients=gradients))

    check()


def test_renorm_clipped_to_nothing_is_plain(eager: Runner) -> None:
    @settings(max_examples=EXAMPLES)
    @given(cases(forms=(None,), steps=1), st.sampled_from(["current", "debiased"]))
    def check(case: Case, form: str) -> None:
        options = replace(case.options, variance="population", debias_mean=False)
        clipped = replace(options, renorm=Renorm(Clip(1.0, 1.0, 0.0), form=form))
        (batch,) = batches_of(case)
        renormed, plain = one_step(eager, case, batch, clipped), one_step(eager, case, batch, options)
        if form == "current":
            assert_close(renormed.state["moving_mean"], plain.state["moving_mean"], "float64", "moving mean")
        assert_same_steps(replace(renormed, state=plain.state), plain)

    check()


def test_the_sample_variance_is_a_factor_in_the_moving_variance_alone(eager: Runner) -> None:
    @settings(max_examples=EXAMPLES)
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


def test_a_shift_of_the_input_shifts_the_mean_alone(eager: Runner) -> None:
    @settings(max_examples=EXAMPLES)
    @given(cases(forms=(None,), weightless="nowhere", steps=1))
    def check(case: Case) -> None:
        options = replace(case.options, decay=0.0, debias_mean=False)
        (batch,) = batches_of(case)
        plain = one_step(eager, case, batch, options)
        moved = one_step(eager, case, replace(batch, x=batch.x + 3.0), options)
        assert_same_steps(
            moved, replace(plain, state={**plain.state, "moving_mean": plain.state["moving_mean"] + 3.0})
        )

    check()
