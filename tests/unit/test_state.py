"""The moving statistics: their names, their start, and the rules, against the oracle and by hand."""

from dataclasses import replace

import numpy as np
import pytest

import oracle
from batchnorm._core.engine import Batch
from batchnorm._core.state import advance, decrement, initial_state, replacement, rules, slots
from batchnorm._engines.numpy import ops
from batchnorm.functional import init
from batchnorm.options import Options, Renorm
from oracle_cases import variables_of
from tolerances import assert_close

DEBIASED = Renorm(decay=0.8, form="debiased")
# name: options, and the names of the statistics in the order of old checkpoints
FORMS = {
    "plain": (Options(decay=0.9), ["moving_mean", "moving_variance"]),
    "zero-debias": (
        Options(decay=0.9, debias_mean=True),
        ["moving_mean", "moving_variance", "biased", "local_step"],
    ),
    "renorm": (
        Options(decay=0.9, renorm=Renorm(decay=0.7)),
        ["moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev"],
    ),
    "debiased renorm": (
        Options(decay=0.9, renorm=DEBIASED),
        [
            *("moving_mean", "moving_variance", "renorm_mean", "renorm_mean_weight"),
            *("renorm_stddev", "renorm_stddev_weight"),
        ],
    ),
    "renorm and zero-debias": (
        Options(decay=0.9, renorm=Renorm(decay=0.7), debias_mean=True),
        [
            *("moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev"),
            *("biased", "local_step"),
        ],
    ),
}
MEAN, VARIANCE = np.array([1.0, -2.0, 0.5]), np.array([4.0, 0.25, 1.0])


def spec_of(options: Options) -> oracle.Spec:
    renorm = options.renorm
    return oracle.Spec(
        options.axes,
        decay=options.decay,
        epsilon=options.epsilon,
        debias_mean=options.debias_mean,
        renorm=renorm is not None,
        renorm_decay=0.99 if renorm is None else renorm.decay,
        legacy_renorm=renorm is not None and renorm.form == "debiased",
    )


def batch_of(x: np.ndarray, counted: np.ndarray | None = None) -> Batch:
    return Batch(x.mean(axis=0), x.var(axis=0), x.var(axis=0), counted)


@pytest.mark.parametrize("form", FORMS)
def test_names_and_start(form: str) -> None:
    options, names = FORMS[form]
    assert list(slots(options)) == names
    state = initial_state(ops, options, MEAN, VARIANCE)
    assert list(state) == names
    expected = variables_of(oracle.init_state(spec_of(options), (4, 3), MEAN, VARIANCE))
    assert set(state) == set(expected)
    for name, value in expected.items():
        assert_close(state[name], value, "float64", name)


@pytest.mark.parametrize("form", FORMS)
def test_steps_agree_with_the_oracle(form: str) -> None:
    options, _ = FORMS[form]
    spec, random = spec_of(options), np.random.RandomState(1)
    state = initial_state(ops, options, MEAN, VARIANCE)
    expected = oracle.init_state(spec, (4, 3), MEAN, VARIANCE)
    for _ in range(4):
        x = random.randn(4, 3) * [1, 2, 0.1] + 1
        before = {name: np.copy(value) for name, value in state.items()}
        after = advance(ops, options, state, batch_of(x))
        for name, value in before.items():
            assert np.array_equal(state[name], value), f"{name} of the old state was written"
        state, (_, expected) = after, oracle.train_step(spec, expected, x)
        for name, value in variables_of(expected).items():
            assert_close(state[name], value, "float64", name)


@pytest.mark.parametrize("form", FORMS)
def test_channels_that_did_not_count_keep_their_statistics(form: str) -> None:
    options, _ = FORMS[form]
    random = np.random.RandomState(2)
    state = initial_state(ops, options, MEAN, VARIANCE)
    state = advance(ops, options, state, batch_of(random.randn(4, 3)))
    batch = batch_of(random.randn(4, 3))
    full = advance(ops, options, state, batch)
    some = advance(ops, options, state, batch._replace(has_weight=np.array([True, False, True])))
    none = advance(ops, options, state, batch._replace(has_weight=np.zeros(3, bool)))
    for name, before in state.items():
        assert not np.array_equal(full[name], before), name
        assert np.array_equal(none[name], before), name
        if np.ndim(before):
            assert np.array_equal(some[name], [full[name][0], before[1], full[name][2]]), name
        else:
            assert np.array_equal(some[name], full[name]), name  # a count counts with any channel


@pytest.mark.parametrize("form", FORMS)
def test_rules_applied_one_by_one_are_an_advance(form: str) -> None:
    """As faces that own variables apply them."""
    options, _ = FORMS[form]
    batch = batch_of(np.random.RandomState(3).randn(4, 3))
    state = initial_state(ops, options, MEAN, VARIANCE)
    variables = dict(state)
    for rule in rules(options):
        change = replacement if rule.assigns else decrement
        value = change(ops, options, rule, variables[rule.slot], variables, batch)
        variables[rule.slot] = value if rule.assigns else variables[rule.slot] - value
    for name, value in advance(ops, options, state, batch).items():
        assert np.array_equal(variables[name], value), name


@pytest.mark.parametrize("form", FORMS)
def test_every_statistic_has_one_rule(form: str) -> None:
    options, names = FORMS[form]
    assert sorted(rule.slot for rule in rules(options)) == sorted(names)


def test_a_moving_average_by_hand() -> None:
    x = np.array([[1.0], [3.0]])
    state = advance(
        ops,
        Options(decay=0.75),
        {"moving_mean": np.array([6.0]), "moving_variance": np.array([9.0])},
        batch_of(x),
    )
    assert state["moving_mean"] == 0.75 * 6 + 0.25 * 2
    assert state["moving_variance"] == 0.75 * 9 + 0.25 * 1


def test_a_debiased_mean_forgets_its_start() -> None:
    options = Options(decay=0.99, debias_mean=True)
    state = initial_state(ops, options, MEAN, VARIANCE)
    batch = batch_of(np.array([[2.0, 3.0, 4.0]]))
    for step in (1, 2):
        state = advance(ops, options, state, batch)
        assert_close(state["moving_mean"], [2.0, 3.0, 4.0], "float64", "moving mean")
        assert state["local_step"] == step


@pytest.mark.parametrize("decay", [1.0, np.float64(1.0), np.array(1.0)], ids=["number", "scalar", "array"])
@pytest.mark.parametrize("value", [7.0, np.inf, np.nan])
@pytest.mark.parametrize("form", FORMS)
def test_a_decay_of_one_keeps_every_average_whatever_the_batch_holds(form: str, value: float, decay) -> None:
    options, _ = FORMS[form]
    renorm = None if options.renorm is None else replace(options.renorm, decay=decay)
    options = replace(options, decay=decay, renorm=renorm)
    state = initial_state(ops, options, MEAN, VARIANCE)
    for _ in range(2):
        with np.errstate(all="ignore"):
            state = advance(ops, options, state, Batch(*[np.full(3, value)] * 3, None))
    expected = initial_state(ops, options, MEAN, VARIANCE)
    for name, start in expected.items():
        if name == "local_step":
            assert state[name] == 2
        elif name == "moving_variance" and form.startswith("renorm"):
            assert_close(state[name], VARIANCE - options.epsilon, "float64", name)  # σ² from √V, as always
        else:
            assert np.array_equal(state[name], start), name


@pytest.mark.parametrize("old", [0.0, 1e30, np.inf, np.nan])
@pytest.mark.parametrize("form", FORMS)
def test_a_decay_of_zero_takes_the_batch_alone(form: str, old: float) -> None:
    options, _ = FORMS[form]
    renorm = None if options.renorm is None else replace(options.renorm, decay=0.0)
    options = replace(options, decay=0.0, renorm=renorm)
    started = initial_state(ops, options, np.full(3, old), np.full(3, old))
    batch = batch_of(np.random.RandomState(4).randn(5, 3) * 1e-6)
    after = advance(ops, options, started, batch)
    assert_close(after["moving_mean"], batch.mean, "float64", "moving_mean")
    if "renorm_mean" in after:
        assert np.array_equal(after["renorm_mean"], batch.mean)
        assert np.array_equal(after["renorm_stddev"], np.sqrt(batch.variance + options.epsilon))
        assert after["renorm_mean"] is not after["moving_mean"]
    else:
        assert np.array_equal(after["moving_variance"], batch.variance)


def test_the_variance_of_a_renormed_layer_is_never_negative() -> None:
    options = Options(decay=0.5, epsilon=0.25, renorm=Renorm())
    state = initial_state(ops, options, np.zeros(1), np.zeros(1))
    after = advance(ops, options, state, Batch(np.zeros(1), np.zeros(1), np.zeros(1), None))
    assert after["moving_stddev"] == 0.25
    assert after["moving_variance"] == 0.0


@pytest.mark.parametrize("name", FORMS)
def test_a_program_may_change_each_array_of_a_start_in_place(name: str) -> None:
    """Nothing else changes with it: neither other slots of the same start, nor a later start."""
    options = FORMS[name][0]
    for framework in (np.asarray, pytest.importorskip("torch").from_numpy):
        like = framework(np.zeros((2, 3), "float32"))
        arrays = [value for record in init(options, (2, 3), like=like) for value in record.values()]
        kept = [np.asarray(value).copy() for value in arrays]
        for index, array in enumerate(arrays):
            array += 1
            kept[index] += 1
            for value, expected in zip(arrays, kept, strict=True):
                assert np.array_equal(np.asarray(value), expected)
