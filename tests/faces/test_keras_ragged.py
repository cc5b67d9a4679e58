"""Rows of different lengths: the Keras layer on ragged tensors, as in stock Keras and beyond it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from batchnorm.keras.layers import BatchNormalization

pytestmark = pytest.mark.needs("keras", "tensorflow", "tf_keras")

Stock = keras.layers.BatchNormalization
random = np.random.default_rng(3)


def rows(*inner, lengths=(2, 0, 3, 1), dtype="float32"):
    values = (random.normal(size=(sum(lengths), *inner)) * 2 + 3).astype(dtype)
    return tf.RaggedTensor.from_row_lengths(values, lengths)


def nested():
    """[2, None, None, 3]."""
    inner = rows(3, lengths=(1, 2, 1, 2))
    return tf.RaggedTensor.from_row_lengths(inner, [3, 1])


def flat(y):
    assert isinstance(y, tf.RaggedTensor)
    return np.asarray(tf.cast(y.flat_values, "float32"))


STOCK = {
    "sequences": (lambda: rows(3), {}),
    "of matrices": (lambda: rows(4, 3), {}),
    "of matrices, by rows": (lambda: rows(4, 3), {"axis": 2}),
    "of sequences": (nested, {}),
    "renorm": (lambda: rows(3), {"renorm": True}),
    "no gamma or beta": (lambda: rows(3), {"scale": False, "center": False}),
    "of ints": (lambda: tf.cast(rows(3) * 10, tf.int32), {}),
    "mixed": (lambda: rows(3), {"dtype": "mixed_float16"}),
}


@pytest.mark.parametrize("traced", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("name", STOCK)
def test_as_stock_keras_does(name, traced):
    make, options = STOCK[name]
    x = make()
    ours, stock = (norm(momentum=0.5, **options) for norm in (BatchNormalization, Stock))
    within = 3e-3 if "dtype" in options else 1e-5
    for layer in (ours, stock):
        layer(x)
    call = tf.function(ours) if traced else ours
    for training in (True, False):
        y, want = call(x, training=training), stock(x, training=training)
        assert y.shape == want.shape
        assert y.dtype == want.dtype
        for mine, theirs in zip(y.nested_row_splits, want.nested_row_splits, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_allclose(flat(y), flat(want), rtol=within, atol=within)
    for mine, theirs in zip(ours.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_gradients():
    x = rows(3)
    found = []
    for norm in (BatchNormalization, Stock):
        layer = norm()
        layer.build(x.shape)
        with tf.GradientTape() as tape:
            values = tf.Variable(x.flat_values)
            y = layer(x.with_flat_values(values), training=True)
            loss = tf.reduce_sum(tf.cast(y.flat_values, "float32") ** 3)
        found.append(tape.gradient(loss, [values, layer.gamma, layer.beta]))
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def dense_of(x, layer_options, **call):
    """A layer's result for the numbers of x as one dense batch."""
    layer = BatchNormalization(momentum=0.5, **layer_options)
    values = x.flat_values
    return np.asarray(layer(values, training=True, **call)), layer


@pytest.mark.parametrize("ragged_weights", [False, True])
def test_masks_and_weights_count_by_place(ragged_weights):
    x = rows(3)
    mask = x.with_flat_values(tf.constant([True, False, True, True, False, True]))
    weight = x.with_flat_values(tf.constant([1.0, 2.0, 0.5, 0.0, 3.0, 1.5]))
    kept = mask.flat_values
    wanted, exact = dense_of(x, {}, sample_weight=weight.flat_values * tf.cast(kept, tf.float32))
    if not ragged_weights:
        mask, weight = mask.to_tensor(), weight.to_tensor()
    layer = BatchNormalization(momentum=0.5)
    y = layer(x, training=True, mask=mask, sample_weight=weight)
    np.testing.assert_allclose(flat(y), wanted, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(layer.get_weights(), exact.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_weights_of_examples():
    x = rows(3)
    weight = np.array([1.0, 5.0, 0.5, 2.0], "float32")
    wanted, exact = dense_of(x, {}, sample_weight=np.repeat(weight, x.row_lengths()))
    layer = BatchNormalization(momentum=0.5)
    np.testing.assert_allclose(
        flat(layer(x, training=True, sample_weight=weight)), wanted, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(layer.moving_variance, exact.moving_variance, rtol=1e-5)


@pytest.mark.parametrize("order", ["contiguous", "interleaved"])
def test_ghost_batches_are_groups_of_rows(order):
    x = rows(3, lengths=(2, 1, 3, 1))
    layer = BatchNormalization(momentum=0.0, virtual_batch_size=2, ghost_order=order)
    y = layer(x, training=True)
    groups = ([0, 1], [2, 3]) if order == "contiguous" else ([0, 2], [1, 3])
    means = []
    for group in groups:
        part = np.concatenate([x[row].numpy() for row in group])
        means.append(part.mean(0))
        wanted = (part - part.mean(0)) / np.sqrt(part.var(0) + 1e-3)
        found = np.concatenate([y[row].numpy() for row in group])
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.ravel(layer.moving_mean), np.mean(means, 0), rtol=1e-5)
    np.testing.assert_allclose(
        flat(layer(x, training=False)), dense_inference(layer, x.flat_values), rtol=1e-4, atol=1e-5
    )


def dense_inference(layer, values):
    mean, variance = np.ravel(layer.moving_mean), np.ravel(layer.moving_variance)
    return (values - mean) / np.sqrt(variance + 1e-3)


def test_channels_before_the_ragged_axis():
    """[2, 3, None]: three channels of different lengths."""
    lengths = [2, 1, 3, 1, 2, 1]
    values = random.normal(size=sum(lengths)).astype("float32")
    inner = tf.RaggedTensor.from_row_lengths(values, lengths)
    x = tf.RaggedTensor.from_uniform_row_length(inner, 3)
    layer = BatchNormalization(axis=1, momentum=0.0)
    y = layer(x, training=True)
    parts = [np.concatenate([x[0, c], x[1, c]]) for c in range(3)]
    np.testing.assert_allclose(layer.moving_mean, [part.mean() for part in parts], rtol=1e-5, atol=1e-6)
    for c, part in enumerate(parts):
        wanted = (part - part.mean()) / np.sqrt(part.var() + 1e-3)
        np.testing.assert_allclose(np.concatenate([y[0, c], y[1, c]]), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_training_known_at_run_time_only(training):
    x, layer = rows(3), BatchNormalization(momentum=0.5)
    layer.build(x.shape)
    run = tf.function(lambda x, training: layer(x, training=training))
    other = BatchNormalization(momentum=0.5)
    np.testing.assert_allclose(
        flat(run(x, tf.constant(training))), flat(other(x, training=training)), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(layer.moving_mean, other.moving_mean, rtol=1e-6)


def test_a_batch_of_nothing_leaves_the_state():
    x = rows(3, lengths=(0, 0))
    for options in ({}, {"virtual_batch_size": 1}):
        layer = BatchNormalization(momentum=0.5, **options)
        assert layer(x, training=True).flat_values.shape == (0, 3)
        np.testing.assert_array_equal(np.ravel(layer.moving_variance), np.ones(3))


def test_ragged_channels_are_refused():
    x = tf.ragged.constant([[1.0, 2.0], [3.0]])
    with pytest.raises(ValueError, match="size is unknown"):
        BatchNormalization()(x)


def test_a_model_with_a_mask_of_its_own():
    """Embedding's mask leaves zeros out of ragged sequences too."""
    inputs = keras.Input((None,), ragged=True, dtype="int32")
    embedding, norm = keras.layers.Embedding(5, 3, mask_zero=True), BatchNormalization(momentum=0.0)
    model = keras.Model(inputs, norm(embedding(inputs)))
    x = tf.ragged.constant([[1, 0, 2], [], [3]])
    model(x, training=True)
    vectors = embedding.embeddings.numpy()
    np.testing.assert_allclose(norm.moving_mean, vectors[[1, 2, 3]].mean(0), rtol=1e-5, atol=1e-7)


def test_fit_and_predict():
    x = rows(3, lengths=(2, 1, 3, 1))
    layers = [keras.Input((None, 3), ragged=True), BatchNormalization(momentum=0.5)]
    model = keras.Sequential(layers)
    model.compile(
        "sgd", run_eagerly=False, jit_compile=False, loss=lambda y, p: tf.reduce_mean(p.flat_values**2)
    )
    model.fit(x, np.zeros((4, 1)), batch_size=4, epochs=1, verbose=0)
    np.testing.assert_allclose(layers[1].moving_mean, x.flat_values.numpy().mean(0) / 2, rtol=1e-5)
    assert model.predict(x, verbose=0).shape[0] == 4
