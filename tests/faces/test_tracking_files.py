"""A Keras 3 model with tracked variables, saved and loaded in every way that Keras and TensorFlow have."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from batchnorm.compat.v1.keras.utils import track_tf1_style_variables
from faces.tracked_keras import Net, X, each_model, fit, functional, train

pytestmark = [pytest.mark.needs("tensorflow", "keras", "tf_keras"), pytest.mark.slow(2)]

v1 = tf.compat.v1


@pytest.fixture
def trained(make):
    return train(make)


@each_model
def test_keras_file_restores_everything_and_trains_on(trained, tmp_path):
    trained.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), trained.predict(X, verbose=0))
    assert fit(loaded) == fit(trained)


@each_model
def test_weights_file(trained, make, tmp_path):
    trained.save_weights(tmp_path / "m.weights.h5")
    keras.utils.set_random_seed(2)
    other = make()
    other(X)
    assert np.abs(other.predict(X, verbose=0) - trained.predict(X, verbose=0)).max() > 0.01
    other.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(other.predict(X, verbose=0), trained.predict(X, verbose=0))


@each_model
def test_checkpoint(trained, make, tmp_path):
    path = tf.train.Checkpoint(model=trained).save(str(tmp_path / "c"))
    other = make()
    other(X)
    restored = tf.train.Checkpoint(model=other).restore(path)
    restored.assert_existing_objects_matched().expect_partial()
    np.testing.assert_array_equal(other.predict(X, verbose=0), trained.predict(X, verbose=0))


@each_model
def test_export(trained, tmp_path):
    trained.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(loaded.serve(X), trained.predict(X, verbose=0), rtol=1e-5, atol=1e-6)


def test_weights_of_another_layer_are_refused(tmp_path):
    class Other(keras.layers.Layer):
        @track_tf1_style_variables
        def call(self, x):
            return x * v1.get_variable("scale", [5])

    functional(Net()).save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(
        ValueError, match=r"'net/w'\] were to be loaded\. .*has made \['scale'\]\. Call the layer"
    ):
        functional(Other()).layers[1]._tf1_style_weights.load_own_variables({"net%2Fw": np.zeros(3)})
    with pytest.raises(ValueError, match=r"were to be loaded|could not be loaded"):
        functional(Other()).load_weights(tmp_path / "m.weights.h5")
