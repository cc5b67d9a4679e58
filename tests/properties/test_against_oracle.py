"""Random cases on every engine against the oracle: y, the states of three steps, and all gradients."""

import numpy as np
from hypothesis import given, settings

import oracle
from properties.cases import Case, batches_of, initial_of, numpy_dtype, spec_of, wide
from properties.compare import check_case
from properties.runners import Runner
from properties.strategies import cases
from tolerances import assert_close


def test_training_agrees_with_the_oracle(runner: Runner) -> None:
    @settings(max_examples=runner.examples)
    @given(cases(runner.dtypes))
    def check(case: Case) -> None:
        check_case(runner, case)

    check()


def test_inference_agrees_with_the_oracle(runner: Runner) -> None:
    """Weights, ghost batches, adjustments and renorm are asked for, and have no part in it."""

    @settings(max_examples=max(10, runner.examples // 3))
    @given(cases(runner.dtypes, steps=1))
    def check(case: Case) -> None:
        (batch,) = batches_of(case)
        moving = initial_of(case)
        spec = spec_of(case.options)
        state = oracle.init_state(spec, case.shape, *map(wide, moving))
        parameters = wide(batch.gamma), wide(batch.beta)
        expected = oracle.infer(spec, state, batch.x, *parameters)
        terms = oracle.magnitudes(spec, state, batch.x, *parameters, batch.dy, training=False)
        scale = np.maximum(np.maximum(1.0, np.abs(expected)), terms["y"])
        got = runner.infer(case.options, moving, batch)
        assert_close(got, expected, numpy_dtype(case.dtype).name, runner.name, scale=scale)

    check()
