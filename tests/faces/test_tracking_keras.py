"""track_tf1_style_variables on Keras layers and models: training, losses, nested layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from batchnorm.compat.v1.keras.utils import (
    get_or_create_layer,
    regularization_losses,
    track_tf1_style_variables,
)
from faces.tracked_keras import (
    STATISTICS,
    TARGET,
    WEIGHTS,
    Nested,
    Net,
    X,
    each_model,
    forward,
    functional,
    paths,
    train,
)

pytestmark = pytest.mark.needs("tensorflow", "keras", "tf_keras")


@pytest.fixture
def trained(make):
    return train(make)


@each_model
def test_fit_trains_the_variables_and_counts_the_losses(trained):
    stored = [path.removeprefix("outer/") for path in paths(trained.trainable_variables)]
    assert stored[:3] == WEIGHTS
    assert trained.history_of_loss[-1] < trained.history_of_loss[0]
    by_path = {v.path.removeprefix("outer/"): v.numpy() for v in trained.variables}
    assert np.abs(by_path["net/w"]).max() <= 0.5  # the constraint
    assert np.abs(by_path[STATISTICS[0]]).max() > 0.01  # updated by fit, by itself
    mse = float(np.mean((trained.predict(X, verbose=0) - TARGET) ** 2))
    losses = float(sum(trained.losses))
    assert losses > 0.01
    np.testing.assert_allclose(trained.evaluate(X, TARGET, verbose=0), mse + losses, rtol=1e-5)


def test_a_gradient_step_is_the_same_as_without_keras():
    layer = Net()
    layer(X)
    kernel = layer.weights[2].numpy()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(X, training=True) ** 3)
    gradients = tape.gradient(loss, layer.trainable_variables)
    raw = tf.Variable(kernel)
    with tf.GradientTape() as tape:
        z = X @ raw
        mean, variance = tf.nn.moments(z, [0])
        y = (z - mean) / tf.sqrt(variance + 1e-3)
        loss = tf.reduce_sum(y**3)
    want = [tf.reduce_sum(3 * y**2, 0), tf.reduce_sum(3 * y**3, 0), tape.gradient(loss, raw)]
    for got, expected in zip(gradients, want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)


def test_losses_are_one_for_each_regularized_variable_at_every_call():
    layer = Net()
    for _ in range(3):
        layer(X, training=True)
        assert len(layer.losses) == len(regularization_losses(layer)) == 5
    layer.weights[1].assign([2.0, 2.0, 2.0])
    np.testing.assert_allclose(layer.losses[1], 0.12)
    function = tf.function(lambda: tf.add_n(layer.losses))
    np.testing.assert_allclose(function(), sum(layer.losses), rtol=1e-6)


def test_not_trainable_hides_the_weights_and_freezes_nothing():
    layer = Net()
    layer(X)
    layer.trainable = False
    assert layer.trainable_variables == []
    assert paths(layer.non_trainable_variables) == WEIGHTS + STATISTICS
    before = layer.weights[3].numpy()
    layer(X, training=True)
    assert np.abs(layer.weights[3].numpy() - before).max() > 0.01


def test_layers_may_be_assigned_while_the_method_runs():
    class Outer(keras.layers.Layer):
        inner = None

        @track_tf1_style_variables
        def call(self, x):
            if self.inner is None:
                self.inner = Net()
            return self.inner(x)

    outer = Outer()
    for _ in range(2):
        outer(X)
    assert paths(outer.weights) == WEIGHTS + STATISTICS
    assert len(outer.losses) == 5
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        outer.another = Net()


def test_a_stateless_call_is_refused():
    layer = Net()
    layer(X)
    trainable, others = (
        [v.numpy() for v in vs] for vs in (layer.trainable_variables, layer.non_trainable_variables)
    )
    with pytest.raises(
        ValueError, match=r"stateless call used the variable 'net/w'\. .*Call the layer instead\."
    ):
        layer.stateless_call([tf.constant(v) for v in trainable], [tf.constant(v) for v in others], X)


# --- nested layers ---


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "function"])
def test_a_nested_model_is_made_once_and_belongs_to_the_layer(wrap):
    layer = Nested()
    call = wrap(layer)
    for _ in range(3):
        call(X)
    (inner,) = layer._tf1_style_var_store._layers.values()
    assert list(layer._tf1_style_var_store._layers) == ["outer/inner"]
    assert {id(v) for v in inner.variables} < {id(v) for v in layer.variables}
    assert len(layer.variables) == 9
    # the kernel's and the bias' regularizers of Keras' "l2", 0.01
    kernel = inner.layers[0].kernel.numpy()
    expected = sum(float(loss) for loss in regularization_losses(layer)) + 0.01 * (np.sum(kernel**2) + 4)
    np.testing.assert_allclose(float(sum(layer.losses)), expected, rtol=1e-5)


@pytest.mark.parametrize("package", [keras, tf_keras], ids=["keras", "tf_keras"])
@pytest.mark.parametrize("outside", ["module", "keras", "tf_keras"])
def test_nested_layers_of_either_keras_in_any_object(package, outside):
    base = {"module": tf.Module, "keras": keras.layers.Layer, "tf_keras": tf_keras.layers.Layer}[outside]

    def method(self, x):
        def make():
            dense = package.layers.Dense(
                3, kernel_initializer="ones", kernel_regularizer="l2", bias_regularizer="l2"
            )
            return package.Sequential([dense, package.layers.BatchNormalization()])

        return get_or_create_layer("inner", make)(x)

    name = "__call__" if outside == "module" else "call"
    net = type("Net", (base,), {name: track_tf1_style_variables(method)})()
    for _ in range(2):
        net(X)
    assert len(net.variables) == 6
    assert len(net.trainable_variables) == 4
    losses = regularization_losses(net) if outside == "module" else net.losses
    assert len(losses) == (2 if package is keras and outside == "keras" else 1)
    np.testing.assert_allclose(float(sum(losses)), 0.01 * 15, rtol=1e-5)


def test_a_nested_module_is_made_outside_of_the_graph_in_which_keras_builds():
    class Scale(tf.Module):
        def __init__(self):
            super().__init__()
            self.variable = tf.Variable([2.0], name="factor")
            self.offset = tf.ones([5])

    class Layer(keras.layers.Layer):
        @track_tf1_style_variables
        def call(self, x):
            scale = get_or_create_layer("scale", Scale)
            return x * scale.variable + scale.offset

    model = functional(Layer())
    assert paths(model.variables) == ["/scale/factor"]
    np.testing.assert_allclose(model.predict(X, verbose=0), 2 * X + 1, rtol=1e-6)


# --- tf_keras ---


def legacy_layer():
    class Legacy(tf_keras.layers.Layer):
        @track_tf1_style_variables
        def call(self, x, training=None):
            return forward(x, bool(training))

    return Legacy()


def legacy_model():
    inputs = tf_keras.Input((5,))
    model = tf_keras.Model(inputs, legacy_layer()(inputs))
    model.compile(tf_keras.optimizers.Adam(0.01), "mse")
    return model


def test_tf_keras_fits_saves_and_loads(tmp_path):
    model = legacy_model()
    history = model.fit(X, TARGET, batch_size=8, epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert [v.name.removesuffix(":0") for v in model.weights] == WEIGHTS + STATISTICS
    assert len(model.losses) == 5
    mse = float(np.mean((model.predict(X, verbose=0) - TARGET) ** 2))
    np.testing.assert_allclose(
        model.evaluate(X, TARGET, verbose=0), mse + float(sum(model.losses)), rtol=1e-5
    )
    model.save_weights(str(tmp_path / "m.h5"))
    other = legacy_model()
    other.load_weights(str(tmp_path / "m.h5"))
    np.testing.assert_array_equal(other.predict(X, verbose=0), model.predict(X, verbose=0))
    model.save(str(tmp_path / "m"), save_format="tf")
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    np.testing.assert_allclose(loaded(X, training=False), model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)


def test_the_same_numbers_in_either_keras():
    """One step of gradient descent from the same weights."""
    ours, legacy = functional(Net()), legacy_model()
    legacy.set_weights(ours.get_weights())
    ours.compile(keras.optimizers.SGD(0.1), "mse")
    legacy.compile(tf_keras.optimizers.SGD(0.1), "mse")
    for model in (ours, legacy):
        model.fit(X, TARGET, batch_size=32, verbose=0)
    for got, want in zip(ours.get_weights(), legacy.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
