"""A runner's steps against the oracle's."""

from collections.abc import Mapping

import numpy as np

from properties.cases import Array, Batch, Case, Step, batches_of, initial_of, judged, numpy_dtype, stat_dtype
from properties.runners import Runner
from tolerances import assert_close


def check_case(runner: Runner, case: Case) -> None:
    """y, the state and the gradients of every step of a case."""
    batches = batches_of(case)
    steps = runner.train(case.options, initial_of(case), batches)
    for number, (step, (expected, terms), batch) in enumerate(
        zip(steps, judged(case, batches), batches, strict=True)
    ):
        where = f"{runner.name}, step {number}"
        scales = scales_of(batch, expected, terms)
        summands = batch.x.size // max(1, case.channels)
        narrow, held = numpy_dtype(case.dtype).name, stat_dtype(case.dtype).name
        assert_close(step.y, expected.y, narrow, f"{where}: y", scale=scales["y"], summands=summands)
        assert set(step.state) == set(expected.state)
        for name, value in expected.state.items():
            assert_close(
                step.state[name], np.reshape(value, step.state[name].shape), held, f"{where}: {name}"
            )
        assert set(step.gradients) == runner.differentiated(batch), where
        for name, value in step.gradients.items():
            dtype = narrow if name == "dx" else held
            want = np.reshape(expected.gradients[name], value.shape)
            assert_close(value, want, dtype, f"{where}: {name}", scale=scales[name], summands=summands)


def scales_of(batch: Batch, expected: Step, terms: Mapping[str, Array]) -> dict[str, Array]:
    """What an error is relative to: the sizes of the terms that were summed, and at least max(1, |v|)."""
    found = {
        "y": np.maximum(1.0, np.abs(expected.y)),
        **{name: np.maximum(1.0, np.abs(value)) for name, value in expected.gradients.items()},
    }
    for name, size in terms.items():
        found[name] = np.maximum(found[name], np.reshape(size, found[name].shape))
    if batch.x.size:
        # The gradients of weights and adjustments are sums of products of what these two consist of.
        bound = np.max(terms["dx"]) * (1.0 + np.max(np.abs(batch.x.astype(np.float64)))) + np.max(terms["y"])
        for name in {"dweights", "dscale_adjustment", "dbias_adjustment"} & set(found):
            found[name] = np.maximum(found[name], bound)
    return found
