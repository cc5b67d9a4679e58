"""What the Keras layer saves, and what it loads: its own files, stock Keras' files and those of tf_keras."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from batchnorm.keras.layers import BatchNormalization
from originals.sides import environment
from programs import keras_2_files

pytestmark = pytest.mark.needs("keras", "tensorflow", "tf_keras")

Stock = keras.layers.BatchNormalization
X = (np.random.default_rng(0).normal(size=(8, 3, 4, 5)) * 2 + 1).astype("float32")


def network(norm, **options):
    return keras.Sequential(
        [
            keras.Input((3, 4, 5)),
            norm(name="norm", momentum=0.5, **options),
            keras.layers.Dense(2, name="dense"),
        ]
    )


def trained(norm, **options):
    model = network(norm, **options)
    for t in range(2):
        model(X * (t + 1), training=True)
    layer = model.get_layer("norm")
    layer.gamma.assign_add(np.random.default_rng(1).normal(size=layer.gamma.shape))
    return model


OPTIONS = {
    "plain": {},
    "renorm": {"renorm": True},
    "ghosts on two axes": {"axis": [1, 3], "virtual_batch_size": 4},
    "zero-debias": {"zero_debias_moving_mean": True, "variance": "sample"},
}


def same_outputs(ours, theirs):
    np.testing.assert_allclose(ours(X), theirs(X), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours(X, training=True), theirs(X, training=True), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_model_and_weights_come_back(name, tmp_path):
    model = trained(BatchNormalization, **OPTIONS[name])
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = network(BatchNormalization, **OPTIONS[name])
    again.load_weights(tmp_path / "model.weights.h5")
    for copy in (loaded, again):
        assert isinstance(copy.get_layer("norm"), BatchNormalization)
        for mine, theirs in zip(copy.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert loaded.get_layer("norm").get_config() == model.get_layer("norm").get_config()
    same_outputs(loaded, model)


@pytest.mark.parametrize("options", [{}, {"axis": 1}, {"renorm": True}, {"scale": False}], ids=str)
def test_weights_go_to_stock_keras_and_back(options, tmp_path):
    for source, target in ((Stock, BatchNormalization), (BatchNormalization, Stock)):
        model = network(source, **options)
        model(X, training=True)
        other = network(target, **options)
        model.save_weights(tmp_path / "of.weights.h5")
        other.load_weights(tmp_path / "of.weights.h5")
        same_outputs(other, model)
        model.save(tmp_path / "of.keras")
        other = network(target, **options)
        other.load_weights(tmp_path / "of.keras")
        np.testing.assert_allclose(other(X), model(X), rtol=1e-5, atol=1e-5)


def test_h5_model_of_stock_keras(tmp_path):
    model = trained(Stock)
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(
        tmp_path / "model.h5", custom_objects={"BatchNormalization": BatchNormalization}
    )
    assert isinstance(loaded.get_layer("norm"), BatchNormalization)
    same_outputs(loaded, model)


SERVE = """
import sys
import numpy as np
import tensorflow as tf

for folder in sys.argv[2:]:
    loaded = tf.saved_model.load(f"{folder}/exported")
    np.save(f"{folder}/y.npy", loaded.serve(np.load(sys.argv[1])))
assert "batchnorm" not in sys.modules
"""


def test_export(tmp_path):
    names = {"plain": "plain", "ghosts": "ghosts on two axes"}
    models = {
        tmp_path / folder: trained(BatchNormalization, **OPTIONS[name]) for folder, name in names.items()
    }
    for folder, model in models.items():
        model.export(folder / "exported", verbose=False)
    np.save(tmp_path / "x.npy", X[:3])
    command = [sys.executable, "-c", SERVE, tmp_path / "x.npy", *models]
    subprocess.run(command, check=True, env=os.environ | environment("keras3"))
    for folder, model in models.items():
        np.testing.assert_allclose(np.load(folder / "y.npy"), model(X[:3]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", ["model", "exported"])
@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_tensorflow_lite(dtype, way, tmp_path):
    """Its converter takes the fused operation only in 32 bits, so graphs must contain no other."""
    model = keras.Sequential([keras.Input((3, 4, 5), batch_size=8), BatchNormalization(dtype=dtype)])
    model(X, training=True)
    if way == "model":
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
    else:
        model.export(tmp_path / "exported", verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "exported"))
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], X.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], X)
    interpreter.invoke()
    y = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    wanted = tf.cast(model(X), tf.float32)
    within = 2e-3 if dtype == "mixed_float16" else 2e-2
    np.testing.assert_allclose(y.astype("float32"), wanted, rtol=within, atol=within)


@pytest.fixture(scope="module")
def keras_2(tmp_path_factory):
    """A folder of files that tf_keras wrote."""
    folder = tmp_path_factory.mktemp("keras_2")
    script = Path(keras_2_files.__file__)
    subprocess.run([sys.executable, script, folder], check=True, env=os.environ | environment("original"))
    return folder


@pytest.mark.parametrize("ending", [".h5", ".weights.h5", ".keras"])
@pytest.mark.parametrize("name", keras_2_files.CASES)
def test_weights_of_tf_keras(name, ending, keras_2):
    model = keras.Sequential(
        [keras.Input(X.shape[1:]), BatchNormalization(name="norm", **keras_2_files.CASES[name])]
    )
    model.load_weights(keras_2 / f"{name}{ending}")
    recorded = np.load(keras_2 / f"{name}.npz")
    x = keras_2_files.inputs()
    np.testing.assert_allclose(model(x), recorded["inference"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model(x, training=True), recorded["training"], rtol=1e-5, atol=2e-5)


@pytest.mark.filterwarnings("ignore:axis=.* of a tf_keras layer with ghost batches")
@pytest.mark.parametrize("name", ["plain", "ghosts", "renorm_and_ghosts"])
def test_h5_model_of_tf_keras(name, keras_2):
    kinds = {"BatchNormalization": BatchNormalization}
    model = keras.models.load_model(keras_2 / f"{name}_model.h5", custom_objects=kinds, compile=False)
    assert isinstance(model.get_layer("norm"), BatchNormalization)
    recorded = np.load(keras_2 / f"{name}.npz")
    x = keras_2_files.inputs()
    np.testing.assert_allclose(model(x), recorded["inference"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model(x, training=True), recorded["training"], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["two_axes", "ghosts_on_two_axes"])
def test_h5_model_whose_axes_keras_drops(name, keras_2):
    """Keras' loader drops lists of axes, and a layer with the default axis does not fit the weights."""
    file = keras_2 / f"{name}_model.h5"
    with pytest.raises(ValueError, match=r"'norm'.*several channel axes.*load_weights"):
        keras.models.load_model(
            file, custom_objects={"BatchNormalization": BatchNormalization}, compile=False
        )
    layer = BatchNormalization(name="norm", **keras_2_files.CASES[name])
    model = keras.Sequential([keras.Input(X.shape[1:]), layer])
    model.load_weights(file)
    recorded = np.load(keras_2 / f"{name}.npz")
    np.testing.assert_allclose(model(keras_2_files.inputs()), recorded["inference"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{"axis": 1}, {"virtual_batch_size": 4, "axis": [2]}], ids=str)
def test_h5_model_of_our_own(options, tmp_path):
    model = trained(BatchNormalization, **options)
    model.save(tmp_path / "model.h5")
    same_outputs(keras.models.load_model(tmp_path / "model.h5"), model)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_files_of_stock_layers_in_16_bits(dtype, tmp_path):
    """They keep their statistics in 16 bits, and ours read them into 32."""
    model = trained(Stock, dtype=dtype)
    # In bfloat16 Keras writes .h5 files that it cannot read itself.
    for ending in (".keras", ".weights.h5", *([".h5"] if dtype == "float16" else [])):
        path = tmp_path / f"model{ending}"
        model.save_weights(path) if ending == ".weights.h5" else model.save(path)
        other = network(BatchNormalization, dtype=dtype)
        other.load_weights(path)
        norm, stock = other.get_layer("norm"), model.get_layer("norm")
        assert (norm.moving_variance.dtype, norm.gamma.dtype) == ("float32", dtype)
        for mine, theirs in zip(norm.weights, stock.weights, strict=True):
            np.testing.assert_array_equal(
                np.asarray(mine.numpy(), "float32"), np.asarray(theirs.numpy(), "float32")
            )
    # And back, to the precision of 16 bits.
    other.save_weights(tmp_path / "ours.weights.h5")
    stock = network(Stock, dtype=dtype)
    stock.load_weights(tmp_path / "ours.weights.h5")
    np.testing.assert_array_equal(stock(X), model(X))


def test_checkpoint_of_tensorflow(tmp_path):
    model, other = trained(BatchNormalization, renorm=True), network(BatchNormalization, renorm=True)
    path = tf.train.Checkpoint(model=model).save(tmp_path / "checkpoint")
    tf.train.Checkpoint(model=other).restore(path).assert_consumed()
    same_outputs(other, model)
