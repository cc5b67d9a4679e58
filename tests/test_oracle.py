"""The oracle against every recorded number, its gradients against slopes, and what it decides alone."""

from __future__ import annotations

import collections
import math
from dataclasses import replace

import numpy as np
import pytest

import golden_data
import oracle
import oracle_cases as rules
from golden_data import Case
from oracle import Spec, State
from oracle_activations import activation
from tolerances import assert_close, golden_tolerance

# The recordings are only as good as they are complete.
CASES = {"v1_layers": 197, "contrib_batch_norm": 153, "tf_keras": 141, "keras3": 123, "tf1_renorm": 16}
OTHER_VERSIONS = {
    ("v1_layers", "tf2_behavior"): {"numbers": 12},
    ("v1_layers", "tf1_15"): {"numbers": 6, "same": 125, "error": 2, "not supported there": 64},
    ("contrib_batch_norm", "tf1_15"): {"numbers": 6, "same": 145, "error": 2},
    ("tf1_renorm", "tf1_8"): {"same": 15, "error": 1},
}


def kind(recorded: object) -> str:
    """What another version's column holds."""
    if isinstance(recorded, str):
        return recorded
    return "numbers" if "steps" in recorded else "error"


ALL = [case for name in golden_data.NUMERIC for case in golden_data.load(name)]
RECORDED = [(case, None) for case in ALL] + [
    (case, column) for case in ALL for column, held in case.columns.items() if kind(held) == "numbers"
]


def test_every_recorded_number_is_compared(capsys) -> None:
    assert collections.Counter(case.api for case in ALL) == CASES
    held = collections.defaultdict(collections.Counter)
    for case in ALL:
        for column, value in case.columns.items():
            held[case.api, column][kind(value)] += 1
    assert held == OTHER_VERSIONS
    with capsys.disabled():
        print(f"\noracle: {len(ALL)} golden cases and {len(RECORDED) - len(ALL)} columns of other versions")


@pytest.mark.parametrize(
    ("case", "column"), [pytest.param(c, v, id=f"{c.id}-{v}" if v else c.id) for c, v in RECORDED]
)
def test_oracle_gives_the_recorded_numbers(case: Case, column: str | None, record_property) -> None:
    spec, start = rules.spec_of(case, column), golden_data.initial_values(case)
    state = oracle.init_state(spec, case.shape, start["moving_mean"], start["moving_variance"])
    parameters = start["gamma"], start["beta"]
    trains, updates = rules.frozen_effects(case)
    of_values, of_variables = rules.tolerances_of(case)
    outside = np.zeros((1,) * len(case.shape), bool)
    for t, recorded in enumerate(case.steps(column)):
        training = recorded.training and trains
        x = golden_data.input_at(case, t).astype(np.float64)
        dy = golden_data.loss_weights_at(case, t).astype(np.float64)
        extras = (rules.weights_at(case, column, t), rules.adjustment_of(case)) if training else (None, None)
        moved = state
        if training:
            y, moved = oracle.train_step(spec, state, x, *parameters, *extras)
        else:
            y = oracle.infer(spec, state, x, *parameters)
        if case.options.get("activation") == "relu":
            dy, y = dy * (y > 0), np.maximum(y, 0)
        ours = {"y": y, **oracle.gradients(spec, state, x, *parameters, dy, *extras, training=training)}
        terms = oracle.magnitudes(spec, state, x, *parameters, dy, *extras, training=training)
        state = moved if updates else state
        outside = outside | rules.without_weight(case, extras[0])

        where = f"{case.id} {column or ''} step {t}"
        theirs = {name: getattr(recorded, name) for name in ("y", "dx", "dgamma", "dbeta")}
        theirs = {name: value for name, value in theirs.items() if value is not None}
        assert set(theirs) == set(ours) - {"dscale_adjustment", "dbias_adjustment", "dweights"}, where
        least = rules.value_scale(case, column, terms["y"])
        for name, value in theirs.items():
            # dx alone is a difference of terms that may be far larger than it
            size = np.maximum(least, terms["dx"] if name == "dx" else 1.0)
            compare(value, ours[name], outside, f"{where} {name}", of_values, size)
        variables = rules.variables_of(state)
        if recorded.variables is not None:
            assert set(recorded.variables) == set(variables), where
            for name, value in recorded.variables.items():
                compare(value, variables[name], outside, f"{where} {name}", of_variables)
    record_property("oracle_golden_cases", 1)


def compare(theirs, ours, outside, what: str, within: float, size=1.0) -> None:
    """Agreement in all channels but those `outside`."""
    theirs = theirs.reshape(ours.shape)
    if outside.any():
        skip = outside if ours.ndim == outside.ndim else outside.reshape(ours.shape)
        theirs, ours = np.where(skip, 0.0, theirs), np.where(skip, 0.0, ours)
    scale = np.maximum(np.maximum(1.0, np.abs(ours)), size)
    assert_close(theirs, ours, "float64", what, within=within, scale=scale)


def test_only_one_channel_is_left_out_of_the_comparison() -> None:
    left_out = [
        (case.id, t, int(rules.without_weight(case, rules.weights_at(case, column, t)).sum()))
        for case, column in RECORDED
        for t in range(3)
        if rules.without_weight(case, rules.weights_at(case, column, t)).any()
    ]
    assert left_out == [("k3-095", 0, 1)]


# Apart are empty inputs, which turned the originals' averages into NaN and leave ours alone, and TensorFlow
# 1.15's float16, which overflows on values of 1e4.
EDGES = [
    pytest.param(record, api, id=f"{record['id']}-{api}")
    for record in golden_data.raw("edge")["cases"]
    for api, outcome in record["outcome"].items()
    if math.prod(record["shape"]) and (record["id"], api) != ("edge-15", "v1_layers_tf1_15")
]


@pytest.mark.parametrize(("record", "api"), EDGES)
def test_oracle_gives_the_recorded_edges(record, api: str) -> None:
    x, outcome = golden_data.edge_input(record).astype(np.float64), record["outcome"][api]
    options, where = record["options"], f"{record['id']} {api}"
    axis = options.get("axis", -1)
    spec = Spec(
        (axis,) if isinstance(axis, int) else tuple(axis),
        decay=0.9,
        epsilon=options.get("epsilon", 1e-3),
        # by default all but Keras 3 run a fused kernel on rank 4
        variance="sample" if x.ndim == 4 and api != "keras3" else "population",
        renorm=options.get("renorm", False),
    )
    state = oracle.init_state(spec, x.shape)
    y, moved = oracle.train_step(spec, state, x)
    dx = oracle.gradients(spec, state, x, None, None, np.ones_like(x))["dx"]
    nowhere, within = np.zeros(1, bool), golden_tolerance(record["dtype"])
    for name, ours in {"y": y, "dx_of_sum": dx, "y_infer": oracle.infer(spec, moved, x)}.items():
        compare(golden_data.numbers(outcome[name]), ours, nowhere, f"{where} {name}", within)
    variables = rules.variables_of(moved)
    assert set(outcome["vars"]) - {"gamma", "beta"} == set(variables), where
    for name, ours in variables.items():
        compare(golden_data.numbers(outcome["vars"][name]), ours, nowhere, f"{where} {name}", within)


SYNCHRONIZED = [
    record
    for record in golden_data.raw("distributed")["cases"]
    if record["options"].get("synchronized") and math.prod(record["shape_per_replica"])
]


@pytest.mark.parametrize(
    "record", SYNCHRONIZED, ids=lambda r: f"{r['api']}-rank{len(r['shape_per_replica'])}"
)
def test_synchronized_replicas_are_one_batch(record) -> None:
    x = np.concatenate([golden_data.distributed_input(record, replica) for replica in (0, 1)])
    spec, result, nowhere = Spec((-1,), decay=0.9), record["result"], np.zeros(1, bool)
    state = oracle.init_state(spec, x.shape)
    for step in ("y_step1", "y_step2"):
        y, state = oracle.train_step(spec, state, x)
        compare(golden_data.numbers(result[step]), y, nowhere, step, 5e-5)
    for name, ours in rules.variables_of(state).items():
        compare(golden_data.numbers(result["vars"][name]), ours, nowhere, name, 5e-5)


CLIP = {"rmin": 0.7, "rmax": 1.4, "dmax": 0.5}
# name: spec, shape of x, of the weights and of the adjustment (None: neither)
ACTIVATIONS_AT = {  # act(1) and act(-1), by hand or from a table of the normal distribution
    "relu": (1.0, 0.0),
    "relu6": (1.0, 0.0),
    "leaky_relu": (1.0, -0.2),
    "hard_tanh": (1.0, -1.0),
    "hard_swish": (4 / 6, -2 / 6),
    "silu": (0.731058578630, -0.268941421370),
    "gelu": (0.841344746069, -0.158655253931),
    "gelu_tanh": (0.841191990608, -0.158808009392),
    "sigmoid": (0.731058578630, 0.268941421370),
    "tanh": (0.761594155956, -0.761594155956),
}

DIFFERENTIABLE = {
    "plain": (Spec((-1,)), (5, 3), None, None),
    "no-affine": (Spec((1,), with_gamma=False, with_beta=False), (4, 3, 2), None, None),
    "two-axes": (Spec((1, 3)), (4, 2, 2, 3), None, None),
    "batch-kept": (Spec((0,)), (3, 4), None, None),
    "weights": (Spec((-1,), epsilon=0.1), (6, 2), (6,), None),
    "mask-shape": (Spec((1,)), (4, 3, 2), (4, 3), None),
    "element-weights": (Spec((-1,)), (4, 2, 2), (4, 2, 2), None),
    "adjustment": (Spec((1,)), (4, 3, 2), None, (1, 3, 1)),
    "per-example": (Spec((-1,), with_gamma=False), (4, 2, 2), (4, 1, 1), (4, 1, 1)),
    "ghosts": (Spec((-1,), ghost_size=3), (6, 2), (6,), (2,)),
    "contiguous": (Spec((1,), ghost_size=2, ghost_order="contiguous"), (4, 2, 3), (4,), (4, 1, 1)),
    "renorm": (Spec((-1,), renorm=True), (5, 3), None, None),
    "clipped": (Spec((-1,), renorm=True, renorm_clip=CLIP, ghost_size=3), (6, 3), (6,), (3,)),
    "legacy": (Spec((-1,), renorm=True, renorm_clip=CLIP, legacy_renorm=True), (5, 3), None, None),
    **{name: (Spec((-1,), activation=name, slope=0.2), (6, 3), (6,), (6, 1)) for name in ACTIVATIONS_AT},
}


@pytest.mark.parametrize("name", ACTIVATIONS_AT)
def test_activations_have_their_known_values(name: str) -> None:
    found, _ = activation(name, 0.2, np.array([1.0, -1.0, 0.0]))
    assert_close(
        found, [*ACTIVATIONS_AT[name], 0.5 if name == "sigmoid" else 0.0], "float64", name, within=1e-11
    )


def test_a_residual_is_added_before_the_activation() -> None:
    x, z = np.array([[-1.0], [1.0]]), np.array([[3.0], [-0.5]])
    spec = Spec((-1,), epsilon=0.0, activation="relu")
    y, _ = oracle.train_step(spec, oracle.init_state(spec, x.shape), x, residual=z)
    assert_close(y, [[2.0], [0.5]], "float64", "y")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_slopes(name: str, training: bool) -> None:
    spec, shape, weights_shape, adjustment_shape = DIFFERENTIABLE[name]
    random = np.random.RandomState(7)
    channels = oracle.init_state(spec, shape).mean.shape
    state = oracle.init_state(spec, shape, random.randn(*channels), random.uniform(0.5, 2, channels))
    gamma, beta = random.uniform(0.5, 1.5, channels), random.randn(*channels)
    weights = None if weights_shape is None else random.uniform(0.2, 2, weights_shape)
    pair = None
    if adjustment_shape is not None:
        pair = random.uniform(0.7, 1.3, adjustment_shape), random.randn(*adjustment_shape)
    # one step first: renorm's averages then differ from the moving ones
    state = oracle.train_step(spec, state, random.randn(*shape), gamma, beta, weights, pair)[1]
    at = spec, state, random.randn(*shape) * 2 + 1, gamma, beta, random.randn(*shape), weights, pair, training
    if spec.activation is not None:
        at += (random.randn(*shape),)
    exact, slopes = oracle.gradients(*at), oracle.numeric_gradients(*at)
    assert set(exact) == set(slopes)
    assert ("dresidual" in exact) == (spec.activation is not None)
    assert ("dweights" in exact) == (training and weights is not None)
    assert ("dscale_adjustment" in exact) == ("dbias_adjustment" in exact) == (training and pair is not None)
    for what, slope in slopes.items():
        assert_close(exact[what], slope, "float64", f"{name} {what}", within=1e-7)


def same(before: State, after: State) -> bool:
    return all(
        np.array_equal(old, vars(after)[field])
        for field, old in vars(before).items()
        if old is not None or vars(after)[field] is not None
    )


OPTIONS = [
    Spec((-1,)),
    Spec((-1,), variance="sample", debias_mean=True),
    Spec((-1,), renorm=True, renorm_clip=CLIP),
    Spec((-1,), renorm=True, legacy_renorm=True),
    Spec((-1,), ghost_size=2),
]


def state_after_a_step(spec: Spec, shape: tuple[int, ...]) -> State:
    x = np.random.RandomState(3).randn(*shape) * 2 + 1
    return oracle.train_step(spec, oracle.init_state(spec, shape), x)[1]


@pytest.mark.parametrize("spec", OPTIONS)
def test_steps_without_elements_or_weight_leave_the_state(spec: Spec) -> None:
    state, x = state_after_a_step(spec, (4, 3)), np.random.RandomState(4).randn(4, 3)
    assert not same(oracle.init_state(spec, (4, 3)), state)
    y, after = oracle.train_step(spec, state, np.zeros((0, 3)))
    assert y.shape == (0, 3)
    assert same(state, after)
    y, after = oracle.train_step(spec, state, x, weights=np.zeros(4))
    assert same(state, after)
    assert_close(y, oracle.infer(spec, state, x), "float64", "y by the moving statistics")


@pytest.mark.parametrize("spec", OPTIONS)
def test_channel_without_weight_keeps_its_state(spec: Spec) -> None:
    state, x = state_after_a_step(spec, (4, 3)), np.random.RandomState(4).randn(4, 3)
    y, after = oracle.train_step(spec, state, x, weights=np.ones((4, 3)) * [1, 0, 1])
    full, expected = oracle.train_step(spec, state, x, weights=np.ones((4, 3)))
    by_zeros = x / np.sqrt(spec.epsilon)
    assert_close(y, np.where([True, False, True], full, by_zeros), "float64", "y")
    for field, value in vars(expected).items():
        if isinstance(value, np.ndarray):
            assert_close(vars(after)[field], [value[0], vars(state)[field][1], value[2]], "float64", field)


def test_renorm_divides_by_at_least_the_root_of_epsilon() -> None:
    x, spec = np.random.RandomState(11).randn(4, 3), Spec((-1,), decay=1.0, epsilon=0.25, renorm=True)
    y, after = oracle.train_step(spec, oracle.init_state(spec, x.shape, np.zeros(3), np.zeros(3)), x)
    assert_close(y, x / 0.5, "float64", "y")
    assert_close(after.variance, np.zeros(3), "float64", "variance, the square of a stddev less epsilon")


@pytest.mark.parametrize("spec", [Spec((-1,), ghost_size=2), Spec((-1,), ghost_size=2, renorm=True)])
def test_ghost_group_without_weight_counts_in_no_average(spec: Spec) -> None:
    state, x = state_after_a_step(spec, (4, 3)), np.random.RandomState(5).randn(4, 3)
    # interleaved: the groups are the examples 0, 2 and 1, 3
    y, after = oracle.train_step(spec, state, x, weights=np.array([1, 0, 2, 0]))
    alone, expected = oracle.train_step(
        replace(spec, ghost_size=None), state, x[::2], weights=np.array([1, 2])
    )
    assert same(expected, after)
    assert_close(y[::2], alone, "float64", "y of the group with weight")
    assert_close(y[1::2], oracle.infer(spec, state, x[1::2]), "float64", "y of the group without")


@pytest.mark.parametrize("spec", OPTIONS)
def test_nan_stays_in_its_channel(spec: Spec) -> None:
    state, x = state_after_a_step(spec, (4, 3)), np.random.RandomState(6).randn(4, 3)
    clean, clean_state = oracle.train_step(spec, state, x)
    x[1, 1] = np.nan
    y, after = oracle.train_step(spec, state, x)
    assert np.isnan(y[1, 1])
    assert np.array_equal(y[:, ::2], clean[:, ::2])
    for field, value in vars(clean_state).items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(vars(after)[field][::2], value[::2]), field
            assert np.isnan(vars(after)[field][1]), field


def test_ghost_orders_differ_by_a_permutation() -> None:
    x, interleaved = np.random.RandomState(8).randn(6, 2, 3), Spec((1,), ghost_size=2)
    state = oracle.init_state(interleaved, x.shape)
    y, after = oracle.train_step(interleaved, state, x)
    order = [0, 3, 1, 4, 2, 5]
    contiguous = replace(interleaved, ghost_order="contiguous")
    moved, expected = oracle.train_step(contiguous, state, x[order])
    assert same(expected, after)
    assert np.array_equal(moved, y[order])
    first = oracle.train_step(replace(interleaved, ghost_size=None), state, x[[0, 3]])[0]
    assert_close(y[[0, 3]], first, "float64", "the first group")


def test_integer_weights_are_repetitions() -> None:
    x, counts, spec = (
        np.random.RandomState(9).randn(4, 2, 3),
        np.array([2, 0, 1, 3]),
        Spec((-1,), renorm=True),
    )
    state = oracle.init_state(spec, x.shape)
    y, after = oracle.train_step(spec, state, x, weights=counts)
    repeated, expected = oracle.train_step(spec, state, np.repeat(x, counts, axis=0))
    assert_close(np.repeat(y, counts, axis=0), repeated, "float64", "y")
    for name, value in rules.variables_of(expected).items():
        assert_close(rules.variables_of(after)[name], value, "float64", name)


@pytest.mark.parametrize(("weights", "share"), [(None, 4 / 3), (np.ones(4), 4 / 3), (np.full(4, 0.1), 4 / 3)])
def test_equal_weights_store_the_sample_variance_of_none(weights, share: float) -> None:
    x, spec = np.random.RandomState(10).randn(4, 3), Spec((-1,), decay=0.0, variance="sample")
    after = oracle.train_step(spec, oracle.init_state(spec, x.shape), x, weights=weights)[1]
    assert_close(after.variance, x.var(axis=0) * share, "float64", "variance")


@pytest.mark.parametrize(
    ("spec", "part"),
    [(Spec((-1,), ghost_size=3), "does not divide"), (Spec((0,), ghost_size=2), "keeps")],
)
def test_impossible_groups_are_refused(spec: Spec, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        oracle.train_step(spec, State(np.zeros(3), np.ones(3)), np.zeros((4, 3)))


def test_assert_close_tells_what_differs() -> None:
    wanted = np.array([[1.0, 2000.0], [np.nan, np.inf]])
    assert_close(wanted * (1 + 0.9e-5), wanted, "float32", "y")
    with pytest.raises(AssertionError, match=r"y: 1 of 4 numbers differ, worst at \[0, 1\]: got 2000.03"):
        assert_close(np.add(wanted, [[0, 0.03], [0, 0]]), wanted, "float32", "y")
    for wrong in (0.0, -np.inf, np.nan):
        with pytest.raises(AssertionError, match="worst at \\[1, 1\\]"):
            assert_close([[1.0, 2000.0], [np.nan, wrong]], wanted, "bfloat16", "y")
    with pytest.raises(AssertionError, match="shape"):
        assert_close(np.ones(2), np.ones((2, 1)), "float64", "y")
