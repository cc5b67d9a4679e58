"""Masks and sample weights of the Keras layer, on every path; batches with nothing in them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from batchnorm.keras.layers import BatchNormalization

pytestmark = pytest.mark.needs("keras", "tensorflow", "tf_keras")

EPSILON = 1e-3


def inputs(*shape, seed=0):
    return (np.random.default_rng(seed).normal(size=shape) * 2 + 1).astype("float32")


def expected(x, weights, groups=None, ddof=0):
    """y and the statistics by NumPy, from weighted examples; `groups` says which ghost batch each is in."""
    groups = np.zeros(len(x), int) if groups is None else groups
    w = np.broadcast_to(weights, x.shape).astype("float64")
    y, means, variances = np.empty(x.shape), [], []
    reduced = tuple(range(x.ndim - 1))
    for group in sorted(set(groups)):
        mine = groups == group
        total = w[mine].sum(reduced)
        if not total.any():
            y[mine] = x[mine] / np.sqrt(1 + EPSILON)
            continue
        mean = (w[mine] * x[mine]).sum(reduced) / total
        variance = (w[mine] * (x[mine] - mean) ** 2).sum(reduced) / total
        y[mine] = (x[mine] - mean) / np.sqrt(variance + EPSILON)
        count = total**2 / (w[mine] ** 2).sum(reduced)
        means, variances = [*means, mean], [*variances, variance * count / (count - ddof)]
    return y, np.mean(means, 0), np.mean(variances, 0)


PATHS = {
    "plain": {},
    "composed": {"fused": False},
    "fused": {"fused": True},
    "interleaved": {"virtual_batch_size": 2},
    "contiguous": {"virtual_batch_size": 2, "ghost_order": "contiguous"},
    "synchronized": {"synchronized": True},
    "sample": {"variance": "sample"},
}


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("name", PATHS)
def test_masked_positions_do_not_count(name, graph):
    x, rng = inputs(6, 3, 4, 5), np.random.default_rng(1)
    mask = rng.random((6, 3, 4)) < 0.6
    mask[[0, 3]] = False  # a ghost batch of its own where they are interleaved
    layer = BatchNormalization(momentum=0.0, epsilon=EPSILON, **PATHS[name])
    layer.build(x.shape)
    spec = [tf.TensorSpec((None, None, None, 5)), tf.TensorSpec((None, None, None), tf.bool)]
    call = tf.function(lambda a, m: layer(a, training=True, mask=m), input_signature=spec)
    y = call(x, mask) if graph else layer(x, training=True, mask=mask)
    groups = {"interleaved": np.arange(6) % 3, "contiguous": np.arange(6) // 2}.get(name)
    want, mean, variance = expected(x, mask[..., None], groups, ddof=int(name == "sample"))
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.ravel(layer.moving_mean), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.ravel(layer.moving_variance), variance, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(layer(x, mask=mask), layer(x))


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 1, 1), (6, 1, 5), (1, 4, 1), (6, 4, 5)])
def test_sample_weights_of_every_shape(shape):
    x, weights = inputs(6, 4, 5), np.random.default_rng(2).random(shape).astype("float32")
    layer = BatchNormalization(momentum=0.0, epsilon=EPSILON)
    y = layer(x, training=True, sample_weight=weights)
    want, mean, variance = expected(x, weights.reshape(shape + (1,) * (3 - len(shape))))
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5, atol=1e-6)


def test_whole_weights_count_as_repetitions():
    x, weights = inputs(5, 3), np.array([1, 3, 0, 2, 1])
    weighted, repeated = BatchNormalization(), BatchNormalization()
    y = weighted(x, training=True, sample_weight=weights)
    want = repeated(np.repeat(x, weights, axis=0), training=True)
    np.testing.assert_allclose(np.repeat(y, weights, axis=0), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weighted.moving_mean, repeated.moving_mean, rtol=1e-6)
    np.testing.assert_allclose(weighted.moving_variance, repeated.moving_variance, rtol=1e-6)


def test_mask_and_sample_weights_multiply():
    x, weights = inputs(6, 4, 5), np.random.default_rng(2).random(6).astype("float32")
    mask = np.random.default_rng(3).random((6, 4)) < 0.5
    both, product = BatchNormalization(), BatchNormalization()
    y = both(x, training=True, mask=mask, sample_weight=weights)
    want = product(x, training=True, sample_weight=mask * weights[:, None])
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(both.moving_variance, product.moving_variance)


def test_masks_are_booleans():
    x = inputs(2, 3, 5)
    first, second = BatchNormalization(), BatchNormalization()
    y = first(x, training=True, mask=np.array([[2.0, 0, 0.5], [0, 0, 1]], "float32"))
    want = second(x, training=True, mask=np.array([[True, False, True], [False, False, True]]))
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize(("axis", "shape"), [(1, (6, 1, 4)), ([1, 2], (6, 3, 4)), (1, (6, 3, 4))])
def test_masks_on_any_axes(axis, shape):
    """The mask lacks the last axis, whichever axes are normalized; one channel is as good as several."""
    x = inputs(*shape)
    mask = np.random.default_rng(4).random(shape[:-1]) < 0.7
    layer = BatchNormalization(axis=axis, momentum=0.0)
    layer(x, training=True, mask=mask)
    reduced = (0,) if isinstance(axis, list) else (0, 2)
    kept = np.where(np.broadcast_to(mask[..., None], shape), x, np.nan).astype("float64")
    np.testing.assert_allclose(np.ravel(layer.moving_mean), np.nanmean(kept, reduced).ravel(), rtol=1e-5)
    np.testing.assert_allclose(np.ravel(layer.moving_variance), np.nanvar(kept, reduced).ravel(), rtol=1e-5)


def test_implicit_masks_are_used_and_passed_on():
    x = inputs(4, 6, 3)
    x[:, 4:] = 0.0
    model = keras.Sequential(
        [keras.Input((None, 3)), keras.layers.Masking(), BatchNormalization(momentum=0.0)]
    )
    model.compile("sgd", loss="mse")
    model.fit(x, x, epochs=1, batch_size=4, verbose=0)
    np.testing.assert_allclose(model.layers[-1].moving_mean, x[:, :4].mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(model.layers[-1].moving_variance, x[:, :4].var((0, 1)), rtol=1e-5)
    masked = keras.layers.Masking()(x)
    out = BatchNormalization()(masked)
    np.testing.assert_array_equal(
        keras.src.backend.get_keras_mask(out), keras.src.backend.get_keras_mask(masked)
    )


NOTHING = {
    "plain": {},
    "renorm": {"renorm": True},
    "ghosts": {"virtual_batch_size": 2},
    "ghosts in order, renorm": {"virtual_batch_size": 2, "ghost_order": "contiguous", "renorm": True},
    "two axes": {"axis": [1, 2]},
    "sample, zero-debias": {"variance": "sample", "zero_debias_moving_mean": True},
}


@pytest.mark.parametrize("batch", ["masked", "empty", "of unknown size", "of unknown shape"])
@pytest.mark.parametrize("name", NOTHING)
def test_a_batch_of_nothing_leaves_the_state(name, batch):
    layer = BatchNormalization(**NOTHING[name])
    layer(inputs(4, 3, 5), training=True)
    before = layer.get_weights()
    if batch == "masked":
        x = tf.constant(inputs(4, 3, 5, seed=1))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=np.zeros((4, 3), bool))
        np.testing.assert_allclose(y, layer(x, training=False), rtol=1e-5, atol=1e-6)
        assert np.isfinite(tape.gradient(y, x)).all()
    else:
        spec = tf.TensorSpec((None, 3, 5) if batch == "of unknown size" else (None, None, 5))
        call = tf.function(lambda a: layer(a, training=True), input_signature=[spec])
        x = tf.zeros((0, 3, 5))
        y = layer(x, training=True) if batch == "empty" else call(x)
        assert y.shape == (0, 3, 5)
    for then, now in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("training", [True, False])
def test_a_mask_or_weights_that_do_not_fit_are_refused(training):
    x, layer = inputs(4, 3, 5), BatchNormalization()
    refused = {
        "A mask of shape (4, 3, 5) came with an input of shape (4, 3, 5). A mask has the shape of the inputs "
        "without the last axis. Pass a mask with one axis less than the inputs.": {
            "mask": np.ones((4, 3, 5), bool)
        },
        "A mask of shape (4, 2) came with an input of shape (4, 3, 5).": {"mask": np.ones((4, 2), bool)},
        "A sample_weight of shape (3,) came with an input of shape (4, 3, 5). The axes of weights stand for the "
        "first axes of the input, and each must have the same size or 1. ": {
            "sample_weight": np.ones(3, "float32")
        },
        "A sample_weight of shape () came with": {"sample_weight": np.float32(2)},
        "A sample_weight of shape (4, 3, 5, 1) came with": {
            "sample_weight": np.ones((4, 3, 5, 1), "float32")
        },
    }
    for message, arguments in refused.items():
        with pytest.raises(ValueError) as caught:
            layer(x, training=training, **arguments)
        assert message in str(caught.value)
