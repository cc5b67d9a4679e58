"""Random cases on every engine against the oracle: y, the states of three steps, and all gradients."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings

import oracle
from batchnorm.options import Options
from properties.cases import Case, batches_of, initial_of, numpy_dtype, spec_of, wide
from properties.compare import check_case
from properties.runners import Runner
from properties.strategies import cases
from tolerances import assert_close

pytestmark = pytest.mark.slow(1)

LAYOUTS = [
    ((3,), (0,)),
    ((4, 3), (-1,)),
    ((4, 3, 2), (1,)),
    ((3, 2, 2, 3), (-1,)),
    ((3, 2, 2, 3), (1,)),
    ((2, 2, 2, 2, 3), (-1,)),
    ((2, 3, 2, 3), (1, 3)),
]


def test_training_agrees_with_the_oracle(runner: Runner) -> None:
    @settings(max_examples=runner.examples)
    @given(cases(runner.dtypes))
    def check(case: Case) -> None:
        check_case(runner, case)

    check()


def test_inference_agrees_with_the_oracle(runner: Runner) -> None:
    """Weights, ghost batches, adjustments and renorm are asked for, and have no part in it."""

    @settings(max_examples=runner.examples)
    @given(cases(runner.dtypes, steps=1))
    def check(case: Case) -> None:
        check_inference(runner, case)

    check()


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize(("shape", "axes"), LAYOUTS, ids=str)
def test_inference_on_each_layout(runner: Runner, shape, axes, dtype: str) -> None:
    for with_gamma, with_beta in product((True, False), repeat=2):
        options = Options(axes, with_gamma=with_gamma, with_beta=with_beta)
        check_inference(runner, Case(options, shape, dtype, steps=1))


def check_inference(runner: Runner, case: Case) -> None:
    (batch,) = batches_of(case)
    moving = initial_of(case)
    spec = spec_of(case.options)
    state = oracle.init_state(spec, case.shape, *map(wide, moving))
    parameters = wide(batch.gamma), wide(batch.beta)
    more = {"residual": wide(batch.residual)}
    expected = oracle.infer(spec, state, batch.x, *parameters, **more)
    terms = oracle.magnitudes(spec, state, batch.x, *parameters, batch.dy, training=False, **more)
    scale = np.maximum(np.maximum(1.0, np.abs(expected)), terms["y"])
    got = runner.infer(case.options, moving, batch)
    assert_close(got, expected, numpy_dtype(case.dtype).name, runner.name, scale=scale)
