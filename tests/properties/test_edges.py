"""Inputs at the edge: no elements, values that are no numbers, means far larger than the spread."""

from dataclasses import replace

import numpy as np
import pytest

from batchnorm.options import Clip, Ghost, Options, Renorm
from properties.cases import Batch, Case, batches_of, initial_of
from properties.compare import check_case
from properties.runners import Runner
from tolerances import assert_close

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


@pytest.mark.parametrize("name", ["plain", "channels first", "composed", "ghosts", "synchronized"])
@pytest.mark.parametrize("weights", [None, (32, 1, 1)], ids=["", "weighted"])
def test_a_large_mean_costs_no_digits_of_the_variance(runner: Runner, name: str, weights) -> None:
    """In float32 the mean of squares less the square of the mean would be wrong in its first digit."""
    options = replace(OPTIONS[name], decay=0.0)
    case = Case(options, (32, 3, 3), "float32", weights=weights, steps=1)
    (batch,) = batches_of(case)
    x = (batch.x + np.float32(1e4)).astype(np.float32)
    step = runner.train(options, initial_of(case), [replace(batch, x=x)])[0]
    exact = x.astype(np.float64)
    centered = runner.train(options, initial_of(case), [shifted_to_zero(batch, exact)])[0]
    assert_close(
        step.state["moving_variance"], centered.state["moving_variance"], "float32", "variance", within=1e-5
    )
    assert_close(step.y, centered.y, "float32", "y", within=5e-3)  # x itself has no more digits


def shifted_to_zero(batch: Batch, exact: np.ndarray) -> Batch:
    return replace(batch, x=(exact - 1e4).astype(np.float32))


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
