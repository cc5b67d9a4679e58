"""batch_norm's numbers, option by option and in the pairs that the original refused, against the oracle."""

import numpy as np
import pytest
import tensorflow as tf

import oracle
import oracle_cases
from batchnorm.contrib.layers import batch_norm
from faces.contrib_graph import START, Net, graph, initializers

pytestmark = pytest.mark.needs("tensorflow", "tf_slim")

v1 = tf.compat.v1
RENORM = {"renorm": True, "renorm_decay": 0.7, "renorm_clipping": {"rmax": 1.4, "rmin": 0.7, "dmax": 0.5}}
ADJUSTMENT = (np.array([0.8, 1.1, 1.2]), np.array([0.1, -0.2, 0.3]))
ADJUSTED = {"adjustment": lambda shape: ADJUSTMENT}
IN_PLACE = {"updates_collections": None}
DEBIASED = {"zero_debias_moving_mean": True}
WEIGHTED = {"weighted": True}
RANK_2, RANK_4 = (6, 3), (4, 2, 2, 3)

# What each case is called: the shape, the options, whether the sample variance is stored.
CASES = {
    "rank 2": (RANK_2, {}, True),
    "rank 2 unfused": (RANK_2, {"fused": False}, False),
    "rank 3": ((4, 2, 3), {}, False),
    "rank 4 in place": (RANK_4, IN_PLACE, True),
    "rank 4 debiased": (RANK_4, DEBIASED, True),
    "rank 5 in place": ((4, 2, 1, 2, 3), IN_PLACE, False),
    "debiased in place": (RANK_2, DEBIASED | IN_PLACE, True),
    "weights": (RANK_4, WEIGHTED, False),
    "weights, debiased": (RANK_2, WEIGHTED | DEBIASED, False),
    "weights, in place": (RANK_2, WEIGHTED | IN_PLACE, False),
    "adjustment": (RANK_2, ADJUSTED, False),
    "adjustment, in place": (RANK_2, ADJUSTED | IN_PLACE, False),
    "adjustment, weights": (RANK_2, ADJUSTED | WEIGHTED, False),
    "adjustment, debiased": (RANK_4, ADJUSTED | DEBIASED, False),
    "renorm": (RANK_2, RENORM, False),
    "renorm, in place": (RANK_2, RENORM | IN_PLACE, False),
    "renorm, weights": (RANK_4, RENORM | WEIGHTED, False),
    "renorm, debiased": (RANK_2, RENORM | DEBIASED, False),
    "renorm, all": (RANK_4, RENORM | WEIGHTED | DEBIASED | ADJUSTED | IN_PLACE, False),
    "debiased renorm": (RANK_2, RENORM | {"renorm_form": "debiased"}, False),
    "debiased renorm, weights": (RANK_2, RENORM | WEIGHTED | {"renorm_form": "debiased"}, False),
    "debiased renorm, in place": (RANK_2, RENORM | IN_PLACE | {"renorm_form": "debiased"}, False),
}


def spec_of(options, sample):
    return oracle.Spec(
        axes=(-1,),
        decay=0.8,
        variance="sample" if sample else "population",
        renorm="renorm" in options,
        renorm_clip=options.get("renorm_clipping"),
        renorm_decay=options.get("renorm_decay", 0.99),
        debias_mean="zero_debias_moving_mean" in options,
        legacy_renorm=options.get("renorm_form") == "debiased",
    )


def batches(shape, n=3):
    random = np.random.default_rng(3)
    return [(random.normal(1, 2, shape), random.integers(0, 4, shape[0])) for _ in range(n)]


@pytest.mark.parametrize("mode", ["tf1", "tf2"])
@pytest.mark.parametrize("switch", [False, True], ids=["static", "switched"])
@pytest.mark.parametrize("name", CASES)
def test_three_steps_are_the_oracles(name, switch, mode):
    shape, options, sample = CASES[name]
    spec = spec_of(options, sample)
    mean, variance = (np.full(3, START[k]) for k in ("moving_mean", "moving_variance"))
    state = oracle.init_state(spec, shape, mean, variance)
    parameters = [np.full(3, START[k]) for k in ("gamma", "beta")]
    with graph(mode):
        net = Net(shape, switch=switch, decay=0.8, **options)
        for x, drawn in batches(shape):
            weights = drawn if "weighted" in options else None
            adjustment = ADJUSTMENT if "adjustment" in options else None
            expected, state = oracle.train_step(spec, state, x, *parameters, weights, adjustment)
            y, statistics = net.train(x, drawn)
            np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-9)
            wanted = oracle_cases.variables_of(state)
            assert set(statistics) == set(wanted)
            for slot, value in wanted.items():
                np.testing.assert_allclose(statistics[slot], value, rtol=1e-9, atol=1e-9, err_msg=slot)
        x = batches(shape, 4)[-1][0]
        np.testing.assert_allclose(
            net.infer(x), oracle.infer(spec, state, x, *parameters), rtol=1e-9, atol=1e-9
        )
        for slot, value in wanted.items():
            np.testing.assert_allclose(
                net.statistics()[slot], value, rtol=1e-9, err_msg=f"{slot} after inference"
            )


@pytest.mark.parametrize("options", [{}, RENORM, DEBIASED, RENORM | IN_PLACE], ids=str)
def test_weights_that_are_all_zero_leave_the_state_and_use_it(options):
    x = batches(RANK_2)[0][0]
    with graph("tf1"):
        net = Net(RANK_2, weighted=True, decay=0.8, **options)
        before = net.statistics()
        y, after = net.train(x, np.zeros(6))
        for slot, value in before.items():
            np.testing.assert_array_equal(after[slot], value, err_msg=slot)
        np.testing.assert_allclose(y, net.infer(x), rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"fused": False}, IN_PLACE, DEBIASED, RENORM], ids=str)
def test_an_empty_batch_leaves_the_state(options):
    with graph():
        net = Net(RANK_2, decay=0.8, **options)
        before = net.statistics()
        y, after = net.train(np.ones((0, 3)))
        assert y.shape == (0, 3)
        for slot, value in before.items():
            np.testing.assert_array_equal(after[slot], value, err_msg=slot)


@pytest.mark.parametrize(
    "given", [[1, 0, 2, 3], np.array([1, 0, 2, 3], "int8"), tf.constant], ids=["list", "array", "tensor"]
)
def test_weights_come_in_any_numeric_form(given):
    x = batches((4, 3))[0][0].astype("float32")
    with graph():
        weights = tf.constant([1, 0, 2, 3], tf.int64) if given is tf.constant else given
        y = batch_norm(tf.constant(x), decay=0.5, batch_weights=weights)
        repeated = np.repeat(x, [1, 0, 2, 3], axis=0)
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            got, _ = session.run([y, v1.get_collection(v1.GraphKeys.UPDATE_OPS)])
            mean = session.run(v1.global_variables()[1])
    np.testing.assert_allclose(got, (x - repeated.mean(0)) / np.sqrt(repeated.var(0) + 1e-3), rtol=1e-5)
    np.testing.assert_allclose(mean, repeated.mean(0) / 2, rtol=1e-5)


def test_gradients_reach_weights_that_are_floats_alone():
    with graph():
        x = tf.constant(batches((4, 3))[0][0])
        floats, ints = tf.constant([1.0, 0, 2, 3]), tf.constant([1, 0, 2, 3])
        y = [batch_norm(x, batch_weights=weights) ** 3 for weights in (floats, ints)]
        assert v1.gradients(y[1], ints) == [None]
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            gradient = session.run(v1.gradients(y[0], floats)[0])
    assert np.abs(gradient).min() > 1e-6


LEGACY = {
    "unfused": {"fused": False, "updates_collections": "my"},
    "debiased": {"fused": False, "zero_debias_moving_mean": True},
    "weighted": {"weighted": True},
    "renormalized": {"weighted": True, "renorm": True},
    "weighted with a switch": {"weighted": True, "switch": True},
}


@pytest.mark.parametrize("mode", ["tf1", "tf2"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", LEGACY)
def test_statistics_of_16_bit_inputs_have_32(name, dtype, mode):
    """The original keeps them in 16 bits on these paths, in which the variance of numbers like 1000 is infinite."""
    x = (batches((64, 3))[0][0] * 1000 + 20).astype("float32")
    with graph(mode):
        net = Net((64, 3), dtype, decay=0.5, **LEGACY[name])
        kinds = {v.op.name.rsplit("/", 1)[-1]: v.dtype.base_dtype.name for v in v1.global_variables()}
        assert {kinds.pop("gamma"), kinds.pop("beta")} == {dtype}
        assert set(kinds.values()) == {"float32"}
        if name == "unfused":
            net.updates = v1.get_collection("my")
        _, found = net.train(x, np.ones(64))
        y = net.infer(x)
    mean, variance = x.mean(0), x.var(0)
    if "renorm" in LEGACY[name]:
        variance = (0.5 * START["moving_variance"] ** 0.5 + 0.5 * variance**0.5) ** 2
    else:
        variance = 0.5 * START["moving_variance"] + 0.5 * variance
    mean = mean if name == "debiased" else 0.5 * START["moving_mean"] + 0.5 * mean
    within = {"float16": 1e-3, "bfloat16": 1e-2}[dtype]
    np.testing.assert_allclose(found["moving_mean"], mean, rtol=within, atol=1000 * within)
    np.testing.assert_allclose(found["moving_variance"], variance, rtol=within)
    expected = 1.2 * (x - mean) / np.sqrt(variance + 1e-3) - 0.3
    np.testing.assert_allclose(np.asarray(y, "float32"), expected, rtol=2 * within, atol=4 * within)


def test_a_getter_may_keep_statistics_in_16_bits():
    """So that checkpoints of the original's half-precision variables restore."""

    def halves(getter, *args, **kwargs):
        return getter(*args, **kwargs | {"dtype": tf.float16})

    x = batches((8, 3))[0][0].astype("float16")
    with graph(), v1.variable_scope("v", custom_getter=halves):
        net = Net((8, 3), "float16", decay=0.5, weighted=True)
        assert {v.dtype.base_dtype.name for v in v1.global_variables()} == {"float16"}
        _, found = net.train(x, np.ones(8))
    np.testing.assert_allclose(found["moving_mean"], 0.2 + x.mean(0) / 2, rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("given", [tf.float32, tf.float64], ids=lambda d: d.name)
def test_a_decay_may_be_a_tensor_of_any_float_dtype(dtype, given):
    x = batches(RANK_2)[0][0].astype(dtype)
    with graph():
        net = Net(RANK_2, dtype, decay=tf.constant(0.5, given), **RENORM)
        _, statistics = net.train(x)
    expected = START["moving_mean"] / 2 + x.astype("float64").mean(0) / 2
    np.testing.assert_allclose(statistics["moving_mean"], expected, rtol=1e-3)


def test_float64_of_rank_2_keeps_its_digits():
    x = batches(RANK_2)[0][0]
    with graph():
        net = Net(RANK_2, decay=0.9)
        assert {v.dtype.base_dtype.name for v in v1.global_variables()} == {"float64"}
        _, statistics = net.train(x)
    np.testing.assert_allclose(statistics["moving_variance"], 1.35 + 0.1 * x.var(0, ddof=1), rtol=1e-14)


def test_each_half_of_the_updates_moves_what_it_rests_on():
    """Fetching the variance's update alone must not advance the shadows of the debiased mean."""
    x = batches(RANK_2)[0][0]
    with graph("tf1"):
        net = Net(RANK_2, decay=0.8, zero_debias_moving_mean=True)
        before = net.statistics()
        net.run(net.updates[1], x, True)
        after = net.statistics()
        assert {slot for slot in before if np.any(before[slot] != after[slot])} == {"moving_variance"}
        net.run(net.updates[0], x, True)
        assert net.statistics()["local_step"] == 1


@pytest.mark.parametrize("mode", ["tf1", "tf2"])
def test_two_training_calls_of_one_run_both_count_and_see_the_same_state(mode):
    x = batches(RANK_2)[0][0]
    with graph(mode):
        net = Net(RANK_2, decay=0.8, renorm=True, updates_collections=None)
        again = batch_norm(
            net.x, 0.8, scale=True, scope="n", reuse=True, renorm=True, updates_collections=None
        )
        for _ in range(10):
            before = net.statistics()["moving_mean"] - x.mean(0)
            first, second = net.run([net.trained, again], x, True)
            np.testing.assert_array_equal(first, second)
            kept = (net.statistics()["moving_mean"] - x.mean(0)) / before
            # One after the other, or both from what the variable was.
            assert np.isclose(kept, 0.8**2).all() or np.isclose(kept, 1 - 2 * 0.2).all(), kept


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_channels_lie_where_the_format_says(rank, data_format):
    shape = (4, 3, 2, 5, 2)[:rank]
    axis = 1 if data_format == "NCHW" else rank - 1
    x = np.random.default_rng(0).normal(size=shape)
    with graph():
        y = batch_norm(tf.constant(x), data_format=data_format)
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            got = session.run(y)
    reduced = tuple(i for i in range(rank) if i != axis)
    expected = (x - x.mean(reduced, keepdims=True)) / np.sqrt(x.var(reduced, keepdims=True) + 1e-3)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_an_old_graphs_initial_values_are_taken():
    with graph():
        batch_norm(tf.ones(RANK_2), scale=True, param_initializers=initializers() | {"unknown": 1})
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            values = session.run({v.op.name: v for v in v1.global_variables()})
    assert {name: value[0] for name, value in values.items()} == {
        f"BatchNorm/{name}": np.float32(value) for name, value in START.items()
    }
