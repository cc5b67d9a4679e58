"""The Keras layer at work: fit, custom loops, graphs, compilation, policies, and inside a large network."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx

from batchnorm.keras.layers import BatchNormalization

pytestmark = pytest.mark.needs("keras", "tensorflow", "tf_keras")

Stock = keras.layers.BatchNormalization


def inputs(*shape, seed=0, dtype="float32"):
    return (np.random.default_rng(seed).normal(size=shape) * 2 + 1).astype(dtype)


def small_network(norm, **options):
    keras.utils.set_random_seed(7)
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(4, 3),
            norm(momentum=0.8, gamma_regularizer="l2", **options),
            keras.layers.Activation("relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
            norm(center=False, renorm=True, renorm_clipping={"rmax": 2.0, "dmax": 1.0}),
        ]
    )


@pytest.mark.parametrize(
    "how", [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}], ids=str
)
def test_fit_evaluate_predict_as_with_stock_layers(how):
    x, y = inputs(20, 6, 6, 2), np.random.default_rng(1).integers(0, 3, 20)
    results = []
    for norm in (Stock, BatchNormalization):
        model = small_network(norm)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05), loss=loss, **how)
        history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history["loss"]
        results.append(
            [history, model.evaluate(x, y, verbose=0), model.predict(x, verbose=0), *model.get_weights()]
        )
    for ours, stock in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(ours, stock, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"axis": 1}, {"renorm": True, "renorm_momentum": 0.7}, {"synchronized": True}], ids=str
)
def test_custom_loop_as_with_stock_layers(options, compiled):
    results = []
    for norm in (Stock, BatchNormalization):
        layer = norm(momentum=0.9, **options)
        layer.build((None, 4, 5))
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(layer.trainable_variables)

        @tf.function(jit_compile=compiled)
        def step(x, w, layer=layer, optimizer=optimizer):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(w * layer(x, training=True))
            dx, *gradients = tape.gradient(loss, [x, *layer.trainable_variables])
            optimizer.apply(gradients)
            return dx

        steps = [
            step(tf.constant(inputs(8, 4, 5, seed=t)), tf.constant(inputs(8, 4, 5, seed=9))) for t in range(3)
        ]
        results.append([*steps, *layer.get_weights()])
    for ours, stock in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(ours, stock, rtol=1e-4, atol=5e-5)


def test_variables_in_order():
    layer = BatchNormalization(renorm=True, zero_debias_moving_mean=True, virtual_batch_size=2, name="norm")
    layer.build((None, 3, 5))
    assert [v.path for v in layer.weights] == [
        f"norm/{name}"
        for name in (
            *(
                "gamma",
                "beta",
                "moving_mean",
                "moving_variance",
                "moving_stddev",
                "renorm_mean",
                "renorm_stddev",
            ),
            *("moving_mean_biased", "moving_mean_local_step"),
        )
    ]
    assert [v.shape for v in layer.weights] == [(1, 1, 1, 5)] * 8 + [()]
    assert layer.trainable_weights == layer.weights[:2]


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (5,)),
        ({"axis": 1}, (3,)),
        ({"axis": [2]}, (4,)),
        ({"axis": [3, 1]}, (1, 3, 1, 5)),
        ({"virtual_batch_size": 2}, (1, 1, 1, 1, 5)),
        ({"virtual_batch_size": 2, "axis": [1, 2]}, (1, 1, 3, 4, 1)),
    ],
)
def test_variable_shapes(options, shape):
    layer = BatchNormalization(**options)
    layer.build((None, 3, 4, 5))
    assert {v.shape for v in layer.weights} == {shape}


def test_initial_values():
    layer = BatchNormalization(
        renorm=True,
        moving_mean_initializer=keras.initializers.Constant(3.0),
        moving_variance_initializer=_random(4),
    )
    layer.build((None, 6))
    variance = np.asarray(_random(4)((6,)))
    np.testing.assert_allclose(layer.moving_variance, variance)
    np.testing.assert_allclose(layer.moving_stddev, np.sqrt(variance))
    np.testing.assert_allclose(layer.renorm_stddev, np.sqrt(variance))
    np.testing.assert_array_equal(layer.renorm_mean, np.full(6, 3.0))


def _random(seed):
    return keras.initializers.RandomUniform(0.5, 2.0, seed=seed)


def test_zero_debias_and_sample_variance():
    layer = BatchNormalization(momentum=0.9, zero_debias_moving_mean=True, variance="sample", dtype="float64")
    batches = [inputs(6, 2, 5, seed=t, dtype="float64") for t in range(3)]
    mean = np.zeros(5)
    variance = np.ones(5)
    for t, x in enumerate(batches, start=1):
        layer(x, training=True)
        mean = 0.9 * mean + 0.1 * x.mean((0, 1))
        variance = 0.9 * variance + 0.1 * x.var((0, 1), ddof=1)
        np.testing.assert_allclose(layer.moving_mean, mean / (1 - 0.9**t), rtol=1e-12)
        np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-12)
    assert float(layer.moving_mean_local_step.numpy()) == 3.0


@pytest.mark.parametrize("shape", [(1, 4, 1), (6, 1, 1), (6, 4, 3)], ids=["channel", "example", "element"])
def test_adjustment(shape):
    x, calls = inputs(6, 4, 3), []
    scale = np.random.default_rng(5).uniform(0.5, 2, shape).astype("float32")

    def adjustment(of):
        calls.append(of.numpy().tolist())
        return tf.constant(scale), 0.25

    layer = BatchNormalization(axis=1, adjustment=adjustment, epsilon=0.0)
    layer.build(x.shape)
    layer.gamma.assign([1.0, 2, 3, 4])
    layer.beta.assign([1.0, 0, -1, 0])
    y = layer(x, training=True)
    normalized = (x - x.mean((0, 2), keepdims=True)) / x.std((0, 2), keepdims=True)
    gamma, beta = np.array([1.0, 2, 3, 4])[:, None], np.array([1.0, 0, -1, 0])[:, None]
    np.testing.assert_allclose(y, gamma * (scale * normalized + 0.25) + beta, rtol=1e-4, atol=1e-5)
    layer(x, training=False)
    assert calls == [[6, 4, 3]], "the function is called once in training, with the inputs' shape"


@pytest.mark.parametrize(
    ("returned", "kind", "message"),
    [
        (
            None,
            TypeError,
            "The adjustment returned None. It takes a factor and an offset. Return (scale, bias).",
        ),
        ((1.0, None), ValueError, "The adjustment returned None for the factor or the offset."),
        ((np.ones((1, 1, 1, 3)), 0), ValueError, "The adjustment returned a tensor of rank 4."),
        (
            (tf.ones([3], tf.float64), 0),
            TypeError,
            "The adjustment returned a tensor of float64. The statistics are float32. "
            "Return tensors of float32, or Python numbers.",
        ),
    ],
)
def test_an_adjustment_that_cannot_be_applied_is_refused(returned, kind, message):
    with pytest.raises(kind) as caught:
        BatchNormalization(adjustment=lambda shape: returned)(inputs(4, 2, 3), training=True)
    assert message in str(caught.value)


def test_training_is_taken_from_the_context_and_stopped_by_trainable():
    x = inputs(8, 5)
    layer = BatchNormalization()
    model = keras.Sequential([keras.Input((5,)), layer])
    inference = model(x).numpy()
    np.testing.assert_allclose(inference, x / np.sqrt(1.001), rtol=1e-6)
    layer.trainable = False
    np.testing.assert_array_equal(model(x, training=True), inference)
    assert not layer.trainable_weights
    assert len(layer.non_trainable_weights) == 4
    layer.trainable = True
    trained = np.asarray(model(x, training=True))
    np.testing.assert_allclose(trained.mean(0), np.zeros(5), atol=1e-6)
    np.testing.assert_allclose(layer.moving_mean, 0.01 * x.mean(0), rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"virtual_batch_size": 2}, {"renorm": True}], ids=str)
def test_training_as_a_tensor_in_a_graph(options):
    x, layer, known = tf.constant(inputs(8, 5)), BatchNormalization(**options), BatchNormalization(**options)
    layer.build(x.shape)

    @tf.function(input_signature=[tf.TensorSpec((None, 5)), tf.TensorSpec((), tf.bool)])
    def call(x, training):
        return layer(x, training=training)

    for training in (True, False, True):
        y = call(x, tf.constant(training))
        np.testing.assert_allclose(y, known(x, training=training), rtol=1e-5, atol=1e-6)
        for ours, want in zip(layer.get_weights(), known.get_weights(), strict=True):
            np.testing.assert_allclose(ours, want, rtol=1e-6)


def test_a_new_momentum_counts_from_the_next_step():
    x, layer = inputs(8, 5), BatchNormalization()
    layer(x, training=True)
    layer.momentum = 0.0
    layer(x, training=True)
    np.testing.assert_allclose(layer.moving_mean, x.mean(0), rtol=1e-5)


def test_two_calls_in_one_step_both_count():
    layer = BatchNormalization(momentum=0.9, dtype="float64")
    layer.build((None, 3))
    first, second = inputs(4, 3, dtype="float64"), inputs(4, 3, seed=1, dtype="float64")

    @tf.function
    def step(a, b):
        return layer(a, training=True), layer(b, training=True)

    step(first, second)
    np.testing.assert_allclose(layer.moving_mean, 0.09 * first.mean(0) + 0.1 * second.mean(0), rtol=1e-12)


def test_autograph_leaves_our_code_alone():
    seen = []

    def adjustment(shape):
        seen.append(ag_ctx.control_status_ctx().status)
        return 1.0, 0.0

    layer = BatchNormalization(adjustment=adjustment)
    layer.build((None, 3))
    tf.function(lambda x: layer(x, training=True))(tf.ones((2, 3)))
    assert seen == [ag_ctx.Status.DISABLED]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float64"])
def test_policies(policy):
    layer = BatchNormalization(momentum=0.5, dtype=policy)
    compute = policy.removeprefix("mixed_")
    x = inputs(64, 3, dtype="float64" if policy == "float64" else "float32") * 8000
    y = layer(x, training=True)
    assert y.dtype == compute
    stored = "float32" if policy.startswith("mixed_") else policy
    kept = "float64" if policy == "float64" else "float32"
    assert [v.dtype for v in layer.weights] == [stored, stored, kept, kept]
    seen = np.asarray(tf.cast(tf.cast(x, compute), "float64"))
    want = (seen - seen.mean(0)) / np.sqrt(seen.var(0) + 1e-3)
    allowed = {"float16": 2e-3, "bfloat16": 2e-2, "float64": 1e-12}[compute]
    np.testing.assert_allclose(np.asarray(tf.cast(y, "float64")), want, rtol=allowed, atol=allowed)
    tight = 1e-12 if policy == "float64" else 1e-5
    np.testing.assert_allclose(layer.moving_mean, 0.5 * seen.mean(0), rtol=tight)
    np.testing.assert_allclose(layer.moving_variance, 0.5 + 0.5 * seen.var(0), rtol=tight)
    assert layer(x, training=False).dtype == compute


@pytest.mark.parametrize("options", [{"renorm": True}, {"zero_debias_moving_mean": True}], ids=str)
def test_no_statistic_is_kept_in_16_bits(options):
    layer = BatchNormalization(momentum=0.5, dtype="float16", virtual_batch_size=8, **options)
    layer(inputs(64, 3) * 8000, training=True)
    assert {v.dtype for v in layer.non_trainable_variables} == {"float32"}
    assert np.isfinite([v.numpy().sum() for v in layer.non_trainable_variables]).all()


@pytest.mark.parametrize(
    ("arguments", "dtype"),
    [({"autocast": False}, "float64"), ({}, "int32"), ({"dtype": "int32"}, "int32")],
    ids=str,
)
def test_inputs_of_another_dtype_as_with_stock_layers(arguments, dtype):
    x = tf.cast(inputs(64, 3) * 10, dtype)
    ours, stock = BatchNormalization(momentum=0.5, **arguments), Stock(momentum=0.5, **arguments)
    for training in (True, False):
        y, want = ours(x, training=training), stock(x, training=training)
        assert y.dtype == want.dtype
        # Cut to an int, a number that rounding moved across one is another.
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1 if y.dtype.is_integer else 1e-5)
    for mine, theirs in zip(ours.get_weights(), stock.get_weights(), strict=True):
        cut = mine.dtype != theirs.dtype
        # Our statistics are float32 at least; those of a stock layer of ints are ints.
        assert not cut or (mine.dtype, theirs.dtype) == ("float32", "int32")
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1 if cut else 0)


def test_symbolic_calls_with_unknown_sizes():
    x, mask = keras.Input((None, None, 3)), keras.Input((None, None), dtype="bool")
    weights = keras.Input(())
    y = BatchNormalization(dtype="mixed_float16")(x)
    assert (y.shape, y.dtype) == ((None, None, None, 3), "float16")
    out = BatchNormalization(axis=-1, virtual_batch_size=2, momentum=0.0)(x, mask=mask, sample_weight=weights)
    model = keras.Model([x, mask, weights], out)
    data = inputs(4, 5, 6, 3)
    ones, zero_one = np.ones(4, "float32"), np.ones((4, 5, 6), bool)
    zero_one[:, 3:] = False
    trained = model([data, zero_one, ones], training=True)
    assert trained.shape == (4, 5, 6, 3)
    np.testing.assert_allclose(np.ravel(model.layers[-1].moving_mean), data[:, :3].mean((0, 1, 2)), rtol=1e-5)
    assert model.predict([data[:3, :2], zero_one[:3, :2], ones[:3]], verbose=0).shape == (3, 2, 6, 3)


def test_in_a_large_network_nothing_changes(monkeypatch):
    """In float64: 52 layers over few examples magnify what float32 rounds."""
    x = inputs(4, 32, 32, 3, dtype="float64")
    models = []
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        for norm in (Stock, BatchNormalization):
            monkeypatch.setattr(keras.src.layers, "BatchNormalization", norm)
            keras.utils.set_random_seed(3)
            shape = (32, 32, 3)
            models.append(
                keras.applications.MobileNetV2(input_shape=shape, alpha=0.35, weights=None, classes=5)
            )
    finally:
        keras.config.set_dtype_policy(before)
    stock, ours = models
    assert sum(isinstance(layer, BatchNormalization) for layer in ours.layers) == 52
    assert [w.path for w in ours.weights] == [w.path for w in stock.weights]
    for training in (False, True, False):
        np.testing.assert_allclose(ours(x, training=training), stock(x, training=training), rtol=1e-9)
    for mine, theirs in zip(ours.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "int32"])
def test_numpy_arrays_in_stateless_calls(dtype):
    x = (10.0 * inputs(8, 4)).astype(dtype)
    results = []
    for norm in (BatchNormalization, Stock):
        layer = norm()
        layer.build((None, 4))
        held = [
            [v.value for v in values] for values in (layer.trainable_variables, layer.non_trainable_variables)
        ]
        y, state = layer.stateless_call(*held, x, training=True)
        results.append([y, *state, layer.call(x.astype("float32"), training=False)])
        assert y.dtype == tf.float32
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
