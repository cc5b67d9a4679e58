"""The Keras layer's activation and residual: against stock layers in a row, on every backend, and its refusals."""

import json
import re
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import batchnorm
import forked
from batchnorm.keras.layers import BatchNormalization
from programs.keras_activation import CHECKS, ELSEWHERE

pytestmark = [pytest.mark.needs("keras", "tensorflow"), pytest.mark.forks]

PROGRAM = Path(__file__).parents[1] / "programs" / "keras_activation.py"
NAMES = (
    *("relu", "leaky_relu", "gelu", "silu", "swish", "hard_silu", "hard_swish", "hard_tanh", "relu6"),
    *("sigmoid", "tanh", "linear"),
)
random = np.random.default_rng(5)


def images(dtype="float32"):
    return (random.normal(size=(6, 2, 3, 4)) * 4.0).astype(dtype)


@cache
def failures(backend):
    variables = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = forked.run(["keras"], PROGRAM, env=variables)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("check", ELSEWHERE)
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_on_another_backend(backend, check):
    pytest.importorskip(backend)
    assert tuple(failures(backend)) == ELSEWHERE
    assert not failures(backend)[check], failures(backend)[check]


@pytest.mark.parametrize("check", CHECKS)
def test_on_tensorflow(check):
    CHECKS[check]()


def spread(function):
    """Values and slopes of an activation over the numbers that matter, kinks apart."""
    u = tf.constant(np.linspace(-8.0, 8.0, 97, dtype="float32")[:, None] + 0.01)
    with tf.GradientTape() as tape:
        tape.watch(u)
        y = function(u)
    return y.numpy(), tape.gradient(y, u).numpy()


# TensorFlow's approximate gelu adds 1 to a number near -1, and multiplies what is left by u.
DIGITS_OF_GELU = 5e-6


def layer_of(activation):
    return BatchNormalization(epsilon=0.0, activation=activation)


def fuses(layer):
    return batchnorm.keras._activation.fusable(layer.activation)


@pytest.mark.parametrize("form", ["name", "function", "operation", "layer"])
@pytest.mark.parametrize("name", NAMES)
def test_every_spelling_is_keras_own(name, form):
    if form == "operation" and name == "linear":
        pytest.skip("keras.ops has no linear activation")
    given = {
        "name": name,
        "function": keras.activations.get(name),
        "operation": getattr(keras.ops, name, None),
        "layer": keras.layers.Activation(name),
    }[form]
    layer = layer_of(given)
    assert fuses(layer) is not None
    for one, other in zip(spread(layer), spread(given if callable(given) else layer.activation), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=DIGITS_OF_GELU)
    if form != "operation" or name != "gelu":
        assert layer.activation is keras.activations.get(name)
    copy = BatchNormalization.from_config(json.loads(json.dumps(layer.get_config())))
    assert copy.activation == layer.activation


@pytest.mark.parametrize(
    ("given", "record"),
    [
        (keras.layers.ReLU(), ("relu", 0.0)),
        (keras.layers.ReLU(6), ("relu6", 0.0)),
        (keras.layers.ReLU(negative_slope=0.3), ("leaky_relu", 0.3)),
        (keras.layers.LeakyReLU(), ("leaky_relu", 0.3)),
        (keras.layers.ReLU(5.0), None),
        (keras.layers.ReLU(threshold=0.5), None),
        (keras.layers.ReLU(6, negative_slope=0.1), None),
        (keras.layers.ELU(0.5), None),
        (keras.layers.Activation("hard_sigmoid"), None),
        ("hard_sigmoid", None),
        (keras.ops.softplus, None),
        (batchnorm.Activation("gelu_tanh"), ("gelu_tanh", 0.0)),
    ],
)
def test_layers_and_what_the_core_does_not_know(given, record):
    layer = layer_of(given)
    found = fuses(layer)
    assert (None if found is None else (found.name, found.slope)) == record
    want = keras.activations.get(given) if isinstance(given, str) else given
    if isinstance(given, batchnorm.Activation):
        want = keras.ops.gelu
    for one, other in zip(spread(layer), spread(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=DIGITS_OF_GELU)
    copy = BatchNormalization.from_config(json.loads(json.dumps(layer.get_config())))
    np.testing.assert_array_equal(spread(copy)[0], spread(layer)[0])


def test_nothing_is_written_unless_asked_for():
    assert "activation" not in BatchNormalization().get_config()
    assert BatchNormalization(activation="relu").get_config()["activation"] == "relu"
    written = BatchNormalization(activation=keras.ops.gelu).get_config()["activation"]
    assert written == {"name": "gelu_tanh", "slope": 0.0}


def test_an_activation_may_be_assigned():
    layer, x = BatchNormalization(activation="relu"), images()
    layer(x)
    layer.activation = None
    assert float(tf.reduce_min(layer(x))) < 0
    layer.activation = keras.activations.tanh
    assert float(tf.reduce_max(tf.abs(layer(x)))) <= 1


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            "gelu_tanh",
            ValueError,
            "Keras has no activation of that name. Pass a name .* batchnorm.Activation",
        ),
        ("no", ValueError, "activation='no' was asked for. Keras has no activation of that name"),
        (3, TypeError, "activation=3 was asked for. It is applied to what the normalization returns"),
    ],
)
def test_what_is_no_activation(given, error, message):
    with pytest.raises(error, match=message):
        BatchNormalization(activation=given)


OF_SHAPE = re.escape("A residual of shape (6, 2, 3, 1) came with an input of shape (6, 2, 3, 4)")


def test_a_residual_of_another_shape():
    x = images()
    for training in (True, False):
        with pytest.raises(ValueError, match=OF_SHAPE):
            BatchNormalization()(x, training=training, residual=x[..., :1])
    one, other = keras.Input((2, 3, 4)), keras.Input((2, 3, 1))
    with pytest.raises(ValueError, match="A residual of shape"):
        BatchNormalization()(one, residual=other)
    # Sizes that only the run knows.
    layer, unknown = BatchNormalization(), tf.TensorSpec([None, 2, 3, 4])
    for training in (True, False):
        call = tf.function(lambda x, z, training=training: layer(x, training=training, residual=z))
        concrete = call.get_concrete_function(unknown, unknown)
        with pytest.raises(tf.errors.InvalidArgumentError, match="A residual of another shape"):
            concrete(tf.constant(x), tf.constant(x[:1]))


def test_training_as_a_tensor():
    x, z = images(), images()
    layer = BatchNormalization(activation="softmax")
    layer.build(x.shape)
    call = tf.function(lambda training: layer(x, training=training, residual=z))
    for training in (False, True):
        np.testing.assert_allclose(
            call(tf.constant(training)), layer(x, training=training, residual=z), rtol=1e-5
        )


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_16_bits_in_a_graph_as_in_eager_code(dtype):
    x, z = images(), images()
    layer = BatchNormalization(activation="silu", dtype=dtype)
    layer(x, training=True)
    call = tf.function(lambda training: layer(x, training=training, residual=z))
    for training in (False, True):
        y, want = call(training), layer(x, training=training, residual=z)
        assert y.dtype == want.dtype == layer.compute_dtype
        np.testing.assert_allclose(tf.cast(y, "float32"), tf.cast(want, "float32"), rtol=1e-2, atol=1e-5)


def test_overridden_moments():
    class Own(BatchNormalization):
        def _moments(self, inputs, mask):
            mean, variance = super()._moments(inputs, mask)
            return mean + 1.0, variance * 4.0

    x, z = images(), images()
    found = []
    for layer, joined in ((Own(activation="gelu"), True), (Own(), False)):
        layer.build(x.shape)
        with tf.GradientTape() as tape:
            given = tf.constant(x), tf.constant(z)
            tape.watch(given)
            if joined:
                y = layer(given[0], training=True, residual=given[1])
            else:
                y = keras.activations.gelu(layer(given[0], training=True) + given[1])
            loss = tf.reduce_sum(y * y)
        found.append([y, *tape.gradient(loss, [*given, *layer.trainable_variables])])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def ragged(lengths=(2, 0, 3, 1), inner=(3,)):
    return tf.RaggedTensor.from_row_lengths(
        random.normal(size=(sum(lengths), *inner)).astype("float32"), lengths
    )


@pytest.mark.parametrize("traced", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("options", [{}, {"virtual_batch_size": 2}], ids=["flat", "padded"])
@pytest.mark.parametrize("activation", ["relu", "elu"])
def test_ragged(activation, options, traced):
    x, z = ragged(), ragged()
    joined, plain = BatchNormalization(activation=activation, **options), BatchNormalization(**options)
    call = tf.function(lambda x, z, training: joined(x, training=training, residual=z)) if traced else None
    for training in (True, False):
        y = joined(x, training=training, residual=z) if call is None else call(x, z, training)
        want = keras.activations.get(activation)(plain(x, training=training).flat_values + z.flat_values)
        np.testing.assert_array_equal(y.row_splits, x.row_splits)
        np.testing.assert_allclose(y.flat_values, want, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(joined.moving_mean, plain.moving_mean, rtol=1e-6, atol=1e-7)


def test_ragged_refusals():
    layer, x = BatchNormalization(), ragged()
    with pytest.raises(ValueError, match="A dense residual came with ragged inputs"):
        layer(x, residual=x.to_tensor())
    with pytest.raises(ValueError, match="A ragged residual came with dense inputs"):
        layer(x.to_tensor(), residual=x)
    for lengths in ((1, 1, 3, 1), (2, 0, 3, 2)):
        with pytest.raises(ValueError, match="rows have other lengths"):
            layer(x, residual=ragged(lengths))
        with pytest.raises(tf.errors.InvalidArgumentError, match="rows have other lengths"):
            tf.function(lambda x, z: layer(x, residual=z))(x, ragged(lengths))


def test_an_export_holds_standard_operations(tmp_path):
    one, other = keras.Input((2, 3, 4), name="x"), keras.Input((2, 3, 4), name="z")
    y = BatchNormalization(activation="relu")(one, residual=other, training=True)
    model = keras.Model([one, other], BatchNormalization(activation="gelu")(y, residual=other))
    x, z = tf.constant(images()), tf.constant(images())
    want = model([x, z])
    model.export(tmp_path / "model", verbose=False)
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((tmp_path / "model" / "saved_model.pb").read_bytes())
    graphs = [meta.graph_def for meta in saved.meta_graphs]
    ops = {node.op for graph in graphs for function in graph.library.function for node in function.node_def}
    assert "Rsqrt" in ops or "FusedBatchNormV3" in ops or "Sqrt" in ops
    assert not [op for op in ops if op.startswith("Batchnorm")]
    loaded = tf.saved_model.load(tmp_path / "model")
    np.testing.assert_allclose(loaded.serve([x, z]), want, rtol=1e-4, atol=1e-5)


def test_the_inputs_own_mask_counts_beside_other_tensors():
    x = np.where(np.arange(4)[None, :, None] < 3, images()[:, 0, :1].repeat(4, 1), 0.0)
    masked, z = keras.layers.Masking()(x), tf.ones(x.shape)
    joined, weighted, plain = (
        BatchNormalization(activation="relu"),
        BatchNormalization(),
        BatchNormalization(),
    )
    y, want = joined(masked, training=True, residual=z), plain(masked, training=True)
    np.testing.assert_allclose(y, np.maximum(np.asarray(want) + 1.0, 0.0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weighted(masked, training=True, sample_weight=np.ones(6)), want, rtol=1e-5)
    np.testing.assert_array_equal(y._keras_mask, want._keras_mask)
    own = np.ones(x.shape[:2], bool)
    y = joined(masked, training=True, residual=z, mask=own)
    np.testing.assert_allclose(
        y, np.maximum(np.asarray(plain(x, training=True)) + 1.0, 0.0), rtol=1e-5, atol=1e-6
    )
