"""The order of examples and of axes, and where zero lies, do not matter."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from properties.cases import Array, Batch, Case, Step, batches_of, initial_of
from properties.changes import BY_POSITION, EXAMPLES, NO_GHOSTS, on_examples, one_step
from properties.compare import assert_same_steps
from properties.runners import Runner
from properties.strategies import cases


def test_the_order_of_examples_does_not_matter(eager: Runner) -> None:
    @settings(max_examples=min(EXAMPLES, eager.examples))
    @given(cases(**NO_GHOSTS, adjustment=None, steps=1), st.randoms(use_true_random=False))
    def check(case: Case, random) -> None:
        (batch,) = batches_of(case)
        order = random.sample(range(case.shape[0]), case.shape[0])
        whole = case.weights is not None and case.weights[0] > 1
        plain = one_step(eager, case, batch)
        mixed = one_step(eager, case, on_examples(batch, lambda array: array[order]))
        gradients = dict(plain.gradients)
        gradients |= {name: gradients[name][order] for name in BY_POSITION if name in gradients}
        if whole:
            gradients["dweights"] = gradients["dweights"][order]
        assert_same_steps(mixed, replace(plain, y=plain.y[order], gradients=gradients))

    check()


def test_the_order_of_axes_does_not_matter(eager: Runner) -> None:
    @settings(max_examples=min(EXAMPLES, eager.examples))
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
            residual=moved(batch.residual),
        )
        start = tuple(map(reordered, initial_of(case)))
        step = eager.train(replace(case.options, axes=axes), start, [turned])[0]
        gradients = {
            name: moved(value) if name in ("dweights", *BY_POSITION) else reordered(value)
            for name, value in plain.gradients.items()
        }
        state = {name: reordered(value) for name, value in plain.state.items()}
        assert_same_steps(step, Step(moved(plain.y), state, gradients))

    check()


def test_a_shift_of_the_input_shifts_the_mean_alone(eager: Runner) -> None:
    @settings(max_examples=min(EXAMPLES, eager.examples))
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
