"""A runner's steps against the oracle's, and two runs that must be one."""

from collections.abc import Mapping

import numpy as np

from properties.cases import Array, Batch, Case, Step, batches_of, initial_of, judged, numpy_dtype, stat_dtype
from properties.runners import Runner
from tolerances import assert_close

# Between two float64 runs whose sums are taken in another order.
ROUNDING = 1e-9


def check_case(runner: Runner, case: Case) -> None:
    """y, the state and the gradients of every step of a case."""
    batches = batches_of(case)
    steps = runner.train(case.options, initial_of(case), batches)
    narrow, held = numpy_dtype(case.dtype).name, stat_dtype(case.dtype).name
    summands = int(np.prod(case.shape)) // case.channels
    for number, (step, (expected, terms), batch) in enumerate(
        zip(steps, judged(case, batches), batches, strict=True)
    ):
        where = f"{runner.name}, step {number}"
        scales = scales_of(batch, expected, terms)
        assert_close(step.y, expected.y, narrow, f"{where}: y", scale=scales["y"], summands=summands)
        assert set(step.state) == set(expected.state)
        for name, value in expected.state.items():
            assert_close(step.state[name], flat(value), held, f"{where}: {name}")
        assert set(step.gradients) == runner.differentiated(batch), where
        for name, value in step.gradients.items():
            dtype = narrow if name in ("dx", "dresidual") else held
            want = np.reshape(expected.gradients[name], value.shape)
            assert_close(value, want, dtype, f"{where}: {name}", scale=scales[name], summands=summands)


def flat(statistic: Array) -> Array:
    """Of several axes, the oracle keeps the shape; the core has [C]. A count is a scalar in both."""
    return np.reshape(statistic, -1) if np.ndim(statistic) else statistic


def scales_of(batch: Batch, expected: Step, terms: Mapping[str, Array]) -> dict[str, Array]:
    """What an error is relative to: the sizes of the terms that were summed, and at least max(1, |v|)."""
    values = {"y": expected.y, **expected.gradients}
    found = {name: np.maximum(1.0, np.abs(value)) for name, value in values.items()}
    # Where x − mean loses digits (more than one, in terms of deviations), the gradients have lost them too.
    lost = max(1.0, np.max(terms["y"]) / 10.0) if batch.x.size else 1.0
    for name, size in terms.items():
        size = np.reshape(size, found[name].shape) * (1.0 if name == "y" else lost)
        found[name] = np.maximum(found[name], size)
    if batch.x.size:
        # The gradients of weights and adjustments are sums of products of what these consist of.
        largest = 1.0 + np.max(np.abs(batch.x.astype(np.float64)))
        bound = np.max(terms["dx"]) * largest + np.max(terms["y"])
        for name in {"dweights", "dscale_adjustment", "dbias_adjustment"} & set(found):
            found[name] = np.maximum(found[name], bound)
    return found


def assert_same(
    one: Mapping[str, Array], other: Mapping[str, Array], what: str, within: float = ROUNDING
) -> None:
    """Two states, or two sets of gradients."""
    assert set(one) == set(other), what
    for name, value in one.items():
        assert_close(value, other[name], "float64", f"{what}: {name}", within=within)


def assert_same_steps(one: Step, other: Step) -> None:
    """Two steps on arrays of one shape."""
    assert_close(one.y, other.y, "float64", "y", within=ROUNDING)
    assert_same(one.state, other.state, "state")
    assert_same(one.gradients, other.gradients, "gradients")
