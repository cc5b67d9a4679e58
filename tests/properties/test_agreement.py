"""One contract of numbers: every legal combination of options, on every framework, five training steps."""

from itertools import product

import numpy as np
import pytest

import oracle
from batchnorm.activation import ACTIVATIONS
from batchnorm.combinations import REFUSED, features
from batchnorm.options import Clip, Ghost, Options, Renorm
from properties import frameworks
from properties.cases import Case, batches_of, initial_of, judged, numpy_dtype, spec_of, stat_dtype
from properties.compare import flat, scales_of
from tolerances import assert_close

pytestmark = pytest.mark.slow(3)

STEPS = 5
CLIP = Clip(0.8, 1.25, 0.5)
RENORMS = (None, Renorm(CLIP, 0.7), Renorm(CLIP, 0.7, "debiased"))
GHOSTS = (None, Ghost(3), Ghost(3, "contiguous"))
WEIGHTS = (None, (6, 1, 3, 1))
ADJUSTMENTS = (None, ((6, 1, 1, 1), (2,)), ((1, 1, 1, 2), (1, 1, 1, 2)))
ESTIMATORS = ("population", "sample")
# These change where numbers lie and nothing else, so they take turns.
AXES = ((-1,), (1,), (1, -1))
PARAMETERS = ((True, True), (True, False), (False, True), (False, False))
# Each activation and a residual meet many of the other options in turn, a third of them without either.
AFTER = (*(name for name in ACTIVATIONS if name != "identity"), None, None, None, None, None)
RESIDUALS = (False, True, True, False, False, True, False)


def combinations():
    made = []
    for fields in product(RENORMS, GHOSTS, WEIGHTS, ADJUSTMENTS, ESTIMATORS, (False, True)):
        renorm, ghost, weights, adjustment, variance, debias = fields
        try:
            turn = len(made)
            gamma, beta = PARAMETERS[turn % len(PARAMETERS)]
            options = Options(
                AXES[turn % len(AXES)],
                0.9,
                1e-3,
                gamma,
                beta,
                variance,
                renorm,
                ghost,
                debias_mean=debias,
                activation=AFTER[turn % len(AFTER)],
            )
        except ValueError:
            continue
        shape = (6, 2, 3, 2)
        if weights is not None:
            weights = tuple(
                1 if axis in (options.axes[0] % 4, options.axes[-1] % 4) else n
                for axis, n in enumerate(weights)
            )
        if adjustment is not None and adjustment[0] == (1, 1, 1, 2):
            kept = {axis % 4 for axis in options.axes}
            adjustment = (tuple(n if axis in kept else 1 for axis, n in enumerate(shape)),) * 2
        more = {"weights": weights, "adjustment": adjustment, "residual": RESIDUALS[turn % len(RESIDUALS)]}
        made.append(Case(options, shape, weightless="some", steps=STEPS, **more))
    return made


CASES = combinations()


def name_of(case):
    parts = sorted(features(case.options))
    parts += ["weights"] * (case.weights is not None) + ["adjustment"] * (case.adjustment is not None)
    parts += ["residual"] * case.residual
    return " ".join(["plain", *parts][bool(parts) :])


def test_every_pair_that_works_is_among_the_combinations():
    asked = [features(case.options) for case in CASES]
    for first, second in product(
        ("renorm", "debiased renorm"), ("ghost batches", "zero-debias", "sample variance")
    ):
        together = any({first, second} <= found for found in asked)
        assert together == (frozenset({first, second}) not in REFUSED)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{i} {name_of(c)}" for i, c in enumerate(CASES)])
def test_all_frameworks_agree(number, dtype):
    case = Case(**{**vars(CASES[number]), "dtype": dtype, "seed": number})
    batches = batches_of(case)
    verdicts = judged(case, batches)
    start = oracle.init_state(spec_of(case.options), case.shape, *initial_of(case))
    start = {
        name: np.asarray(flat(np.asarray(v)), stat_dtype(dtype)) for name, v in start_variables(start).items()
    }
    summands = int(np.prod(case.shape)) // case.channels
    runs = {name: run(name, case, batches, start) for name in frameworks.INSTALLED}
    for index, (expected, terms) in enumerate(verdicts):
        scales = scales_of(batches[index], expected, terms)
        for first, second in zip(runs, list(runs)[1:], strict=False):
            one, other = runs[first][index], runs[second][index]
            where = f"{first} and {second}, step {index}"
            assert_close(other.y, one.y, dtype, f"{where}: y", scale=scales["y"], summands=summands)
            assert set(one.state) == set(other.state) == set(expected.state)
            for slot, value in one.state.items():
                assert_close(other.state[slot], value, dtype, f"{where}: {slot}")
            for name in set(one.gradients) & set(other.gradients):
                got, want = other.gradients[name], one.gradients[name]
                scale = np.reshape(scales[name], want.shape)
                assert_close(got, want, dtype, f"{where}: {name}", scale=scale, summands=summands)
        for name, steps in runs.items():
            assert steps[index].y.dtype == numpy_dtype(dtype), name
            missing = set(batches[index].given) - set(steps[index].gradients)
            assert not missing or (name == "numpy" and case.adjustment is not None)


def start_variables(state):
    from oracle_cases import variables_of

    return variables_of(state)


def run(name, case, batches, state):
    steps = []
    for batch in batches:
        steps.append(frameworks.train_step(name, case.options, batch, state))
        state = steps[-1].state
    inferred = frameworks.infer(name, case.options, batches[0], state)
    want = frameworks.infer("numpy", case.options, batches[0], state)
    assert_close(inferred, want, case.dtype, f"{name} at inference", scale=np.abs(want).max() + 1.0)
    return steps
