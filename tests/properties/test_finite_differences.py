"""Every engine's gradients against slopes of its own forward pass, on a few small sizes."""

from dataclasses import replace

import numpy as np
import pytest

from batchnorm.options import Clip, Ghost, Options, Renorm
from properties.cases import Array, Batch, Case, batches_of, initial_of
from properties.runners import Runner
from tolerances import assert_close

# r and d are constants of the gradient. These bounds make them constants of the forward pass as well.
HELD = Renorm(Clip(rmin=1.2, rmax=1.2, dmax=0.01))
CASES = {
    "plain": Case(Options((-1,)), (4, 2)),
    "channels first": Case(Options((1,)), (2, 2, 2)),
    "ghosts": Case(Options((-1,), ghost=Ghost(2)), (4, 2)),
    "weights": Case(Options((-1,), ghost=Ghost(3, "contiguous")), (6, 1), weights=(6, 1)),
    "position weights": Case(Options((-1,)), (2, 3, 1), weights=(1, 3, 1)),
    "renorm": Case(Options((-1,), renorm=HELD), (4, 2), offset=5.0),
    "adjustment": Case(Options((-1,)), (3, 2), adjustment=((3, 1), (2,))),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_slopes(eager: Runner, name: str) -> None:
    case = replace(CASES[name], steps=1, seed=3)
    (batch,) = batches_of(case)
    step = eager.train(case.options, initial_of(case), [batch])[0]
    assert set(step.gradients) == eager.differentiated(batch)

    for what, gradient in step.gradients.items():
        slopes = np.zeros_like(gradient)
        for index in np.ndindex(slopes.shape):
            above, below = (
                loss(eager, case, moved(batch, what, index, distance)) for distance in (1e-5, -1e-5)
            )
            slopes[index] = (above - below) / 2e-5
        assert_close(gradient, slopes, "float64", f"{name}: {what}", within=1e-6)


def loss(runner: Runner, case: Case, batch: Batch) -> float:
    return float(np.sum(batch.dy * runner.train(case.options, initial_of(case), [batch])[0].y))


def moved(batch: Batch, what: str, index: tuple[int, ...], distance: float) -> Batch:
    """The batch with one number of what has the gradient `what` moved."""

    def of(array: Array) -> Array:
        array = array.copy()
        array[index] += distance
        return array

    if what in ("dscale_adjustment", "dbias_adjustment"):
        pair = list(batch.adjustment)
        at = ("dscale_adjustment", "dbias_adjustment").index(what)
        pair[at] = of(pair[at])
        return replace(batch, adjustment=tuple(pair))
    field = what.removeprefix("d")
    return replace(batch, **{field: of(getattr(batch, field))})
