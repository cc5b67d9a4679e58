"""One step on a changed batch, for properties that compare an engine with itself. In float64."""

from collections.abc import Callable
from dataclasses import replace

from batchnorm.options import Options
from properties.cases import Array, Batch, Case, Step, initial_of
from properties.runners import Runner

NO_GHOSTS = {"ghosts": (None,), "keeps_batch": False}
# Random cases per property and engine.
EXAMPLES = 20
# The gradients that have a number for each position of the input.
BY_POSITION = ("dx", "dresidual")


def one_step(runner: Runner, case: Case, batch: Batch, options: Options | None = None) -> Step:
    return runner.train(options or case.options, initial_of(case), [batch])[0]


def on_examples(batch: Batch, change: Callable[[Array], Array]) -> Batch:
    """The batch with `change` applied to everything that has one entry per example."""

    def of(array: Array | None) -> Array | None:
        full = array is not None and array.ndim == batch.x.ndim and len(array) == len(batch.x)
        return change(array) if full else array

    pair = batch.adjustment
    moved = None if pair is None else tuple(map(of, pair))
    changed = {name: of(getattr(batch, name)) for name in ("x", "dy", "weights", "residual")}
    return replace(batch, **changed, adjustment=moved)
