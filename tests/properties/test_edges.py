"""Inputs at the edge: no elements, values that are no numbers, means far larger than the spread."""

from dataclasses import replace

import numpy as np
import pytest

from batchnorm.options import Clip, Ghost, Options, Renorm
from properties.cases import Case, batches_of, initial_of, judged, per_channel
from properties.compare import check_case
from properties.runners import Runner
from tolerances import assert_close

pytestmark = pytest.mark.slow(2)

OPTIONS = {
    "plain": Options((-1,)),
    "channels first": Options((1,)),
    "composed": Options((1,), fused=False),
    "sample and zero-debias": Options((-1,), variance="sample", debias_mean=True),
    "renorm": Options((-1,), renorm=Renorm(Clip(0.5, 2.0, 1.0))),
    "debiased renorm": Options((1,), renorm=Renorm(form="debiased")),
    "ghosts": Options((1,), ghost=Ghost(2)),
    "contiguous renorm": Options((-1,), ghost=Ghost(2, "contiguous"), renorm=Renorm()),
    "synchronized": Options((-1,), synchronized=True),
}
EMPTY = [(0, 3, 2), (4, 3, 0, 2), (0, 3, 2, 2)]


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("shape", EMPTY, ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_a_batch_without_elements_changes_nothing(eager: Runner, name: str, shape, weighted: bool) -> None:
    check_empty(eager, name, shape, weighted)


@pytest.mark.parametrize("name", ["plain", "ghosts", "contiguous renorm", "sample and zero-debias"])
def test_a_batch_that_turns_out_empty_changes_nothing(runner: Runner, name: str) -> None:
    check_empty(runner, name, EMPTY[0], True)


def check_empty(runner: Runner, name: str, shape: tuple[int, ...], weighted: bool) -> None:
    weights = (*shape[:1], *(1 for _ in shape[1:])) if weighted else None
    full = Case(
        OPTIONS[name], tuple(size or 4 for size in shape), weights=weights and (shape[0] or 4, *weights[1:])
    )
    empty = replace(full, shape=shape, weights=weights)
    batches = [batches_of(replace(full, steps=1))[0], batches_of(replace(empty, steps=1))[0]]
    before, after = runner.train(full.options, initial_of(full), batches)
    assert after.y.shape == shape
    for slot, value in before.state.items():
        assert np.isfinite(value).all(), slot
        assert np.array_equal(after.state[slot], value), slot
    assert set(after.gradients) == runner.differentiated(batches[1])
    for what, value in after.gradients.items():
        assert np.array_equal(value, np.zeros(batches[1].given[what].shape)), what


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_no_number_stays_in_its_channel(eager: Runner, name: str, value: float) -> None:
    """Also from an element without weight."""
    for weights in (None, (4, 1, 1, 1)):
        case = Case(OPTIONS[name], (4, 3, 2, 3), weights=weights, steps=1)
        (batch,) = batches_of(case)
        if weights is not None:
            batch.weights[1] = 0.0
        poisoned = batch.x.copy()
        # Example 1, channel 1 in whichever place the channels have.
        poisoned[1, 1, 1, 1] = value
        clean = eager.train(case.options, initial_of(case), [batch])[0]
        step = eager.train(case.options, initial_of(case), [replace(batch, x=poisoned)])[0]
        others = [0, 2]
        (axis,) = case.axes
        for what, array in {"y": step.y, "dx": step.gradients["dx"]}.items():
            expected = clean.y if what == "y" else clean.gradients[what]
            assert np.array_equal(array.take(others, axis), expected.take(others, axis)), what
        for what, array in step.state.items():
            if array.ndim:
                assert np.array_equal(array[others], clean.state[what][others]), what
        for what in ("dgamma", "dbeta"):
            assert np.array_equal(step.gradients[what][others], clean.gradients[what][others]), what
        assert not np.isfinite(step.y.take(1, axis)).all()
        assert not np.isfinite(step.state["moving_mean"][1])


FAR = {
    **{name: Case(options, (32, 3, 3), steps=1) for name, options in OPTIONS.items()},
    "two axes": Case(Options((0, 2)), (2, 24, 3), steps=1),
    "two examples": Case(Options((-1,)), (2, 5), steps=1),
    "weights": Case(Options((-1,)), (32, 3, 3), weights=(32, 1, 1), weightless="some", steps=1),
    "weights of channels": Case(Options((1,)), (32, 3, 3), weights=(32, 3, 3), steps=1),
    "weights, ghosts and renorm": Case(OPTIONS["contiguous renorm"], (32, 3, 3), weights=(32, 1, 1), steps=1),
    "adjustment": Case(Options((-1,)), (32, 3, 3), adjustment=((32, 1, 1), (32, 1, 3)), steps=1),
}
# A step has a few dozen roundings in sequence.
ROUNDINGS = 64.0 * 2.0**-24


@pytest.mark.parametrize(("mean", "deviation"), [(1e3, 0.1), (1e6, 1.0)])
@pytest.mark.parametrize("name", FAR)
def test_a_mean_far_from_zero_costs_no_digits(
    runner: Runner, name: str, mean: float, deviation: float
) -> None:
    """In float32, in which rounding the mean alone costs up to 3% of the deviation. The oracle sees the same x."""
    case, random = replace(FAR[name], dtype="float32"), np.random.RandomState(3)
    x = (mean + deviation * random.randn(*case.shape)).astype(np.float32)
    (batch,) = (replace(batch, x=x) for batch in batches_of(case))
    near = (mean + deviation * random.randn(case.channels)).astype(np.float32)
    moving = near, np.full(case.channels, 2.0 * deviation**2, np.float32)
    ((expected, terms),) = judged(case, [batch], moving)
    (step,) = runner.train(case.options, moving, [batch])
    # Gradients sum products of dy and the normalized x, divided by the deviation in those of x.
    sizes = {"dx": np.max(terms["dx"]), "dweights": np.max(terms["dx"]) * deviation * 10.0}
    number = x.size / case.channels

    def close(what: str, got: np.ndarray, want: np.ndarray) -> None:
        size = sizes.get(what, np.sqrt(number) if what.startswith("d") else 1.0)
        want = np.reshape(want, got.shape)
        scale = np.maximum(max(size, np.max(np.abs(want))), 1.0)
        assert_close(got, want, "float32", f"{runner.name}: {what}", scale=scale, within=ROUNDINGS)

    close("y", step.y, expected.y)
    for what, value in step.gradients.items():
        close(what, value, expected.gradients[what])
    for slot, value in expected.state.items():
        close(slot, step.state[slot], value)


@pytest.mark.parametrize(("mean", "deviation"), [(1e3, 0.1), (1e6, 1.0)])
@pytest.mark.parametrize("shape", [(8, 3, 5, 4), (8, 5)], ids=str)
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("fused", [None, False])
def test_inference_subtracts_first(runner: Runner, shape, axis: int, fused, mean, deviation) -> None:
    case, random = Case(Options((axis,), fused=fused), shape, "float32", steps=1), np.random.RandomState(4)
    (batch,) = batches_of(case)
    moving = (mean + deviation * random.randn(case.channels)).astype(np.float32)
    variance = np.full(case.channels, deviation**2, np.float32)
    x = (mean + deviation * random.randn(*shape)).astype(np.float32)
    y = runner.infer(case.options, (moving, variance), replace(batch, x=x))
    exact = [per_channel(case, np.float64(value)) for value in (moving, variance, batch.gamma, batch.beta)]
    want = (x - exact[0]) / np.sqrt(exact[1] + case.options.epsilon) * exact[2] + exact[3]
    assert_close(y, want, "float32", runner.name, within=ROUNDINGS)


@pytest.mark.parametrize("shape", [(64, 5), (3, 40, 40, 2), (2, 3, 30, 31), (16, 4, 4, 4, 2)], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_larger_inputs_agree_with_the_oracle(eager: Runner, shape: tuple[int, ...], dtype: str) -> None:
    for options in (
        Options((-1,)),
        Options((1,), renorm=Renorm(Clip(0.5, 2.0, 1.0))),
        Options((-1,), ghost=Ghost(1)),
    ):
        check_case(eager, Case(options, shape, dtype, steps=1))
    check_case(eager, Case(Options((1,)), shape, dtype, weights=shape, steps=1))
