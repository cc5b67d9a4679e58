"""What `test_keras_backends` runs in a process of its own, where KERAS_BACKEND names the backend.

    python keras_backend.py FOLDER

Trains a small model for each set of options, and saves it and what it predicts in FOLDER/BACKEND. With a second
argument, `load`: says what the models that all backends saved there predict.
"""

import sys
from pathlib import Path

import keras
import numpy as np

from batchnorm.keras.layers import BatchNormalization

BACKEND = keras.backend.backend()


@keras.saving.register_keras_serializable(package="tests")
def brighten(shape):
    """Another factor for each example; no random numbers, which the backends draw differently."""
    steps = keras.ops.cast(keras.ops.arange(shape[0]), "float32") / 10.0
    return keras.ops.reshape(1.0 + steps, (-1, 1, 1, 1)), keras.ops.reshape(steps, (-1, 1, 1, 1))


OPTIONS = {
    "plain": {},
    "renorm": {"renorm": True, "renorm_clipping": {"rmax": 2.0, "dmax": 1.0}, "renorm_momentum": 0.8},
    "two axes": {"axis": [1, 3], "scale": False},
    "ghosts side by side": {"virtual_batch_size": 4, "ghost_order": "contiguous"},
    "renorm and ghosts": {"renorm": True, "virtual_batch_size": 4},
    "zero-debias and sample variance": {"zero_debias_moving_mean": True, "variance": "sample"},
    "adjustment in plain operations": {"adjustment": brighten, "fused": False},
    "synchronized, axis 1": {"axis": 1, "synchronized": True},
    "bfloat16": {"dtype": "mixed_bfloat16"},
    "float64": {"dtype": "float64"},
}
STOCK = ("plain", "renorm")


def data():
    random = np.random.default_rng(0)
    return random.normal(2.0, 3.0, (16, 4, 4, 3)).astype("float32"), random.normal(size=(16, 2)).astype(
        "float32"
    )


def model_of(norm, options):
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            norm(momentum=0.7, **options),
            keras.layers.Flatten(),
            keras.layers.Dense(2, kernel_initializer=keras.initializers.Constant(0.02), dtype="float32"),
        ]
    )


def trained(norm, options, **how):
    x, y = data()
    model = model_of(norm, options)
    model.compile(keras.optimizers.SGD(0.01), loss="mse", **how)
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return model


def facts(model):
    """What it predicts, and its weights by their place."""
    return {"predicts": model.predict(data()[0], verbose=0)} | {
        f"weight {i}": np.asarray(v, np.float64) for i, v in enumerate(model.get_weights())
    }


def weighted():
    """Training calls with a mask and with sample weights, which fit hands to no layer by itself."""
    x, _ = data()
    layer = BatchNormalization(momentum=0.7, virtual_batch_size=4)
    mask, weight = np.random.default_rng(1).random((16, 4, 4)) > 0.3, np.arange(16, dtype="float32")
    outputs = [layer(x, training=True, mask=mask), layer(x, training=True, sample_weight=weight)]
    return {f"y {i}": keras.ops.convert_to_numpy(y) for i, y in enumerate(outputs)} | {
        v.name: keras.ops.convert_to_numpy(v) for v in layer.weights
    }


def narrow():
    """Layers in 16 bits on numbers whose variance float16 cannot hold."""
    x = data()[0] * 300.0
    found = {}
    for dtype in ("float16", "bfloat16"):
        layer = BatchNormalization(momentum=0.5, dtype=dtype)
        layer(x, training=True)
        found |= {
            f"{dtype} {v.name}": keras.ops.convert_to_numpy(keras.ops.cast(v.value, "float32"))
            for v in layer.weights
        }
        kinds = {keras.backend.standardize_dtype(v.dtype) for v in layer.non_trainable_variables}
        found[f"{dtype} statistics"] = np.asarray(",".join(kinds))
    return found


def main(folder):
    own = folder / BACKEND
    own.mkdir(parents=True)
    found = {}
    for name, options in OPTIONS.items():
        # By default TensorFlow's functions go through XLA, which takes long to compile; "compiled" does it on purpose.
        how = {} if name in STOCK or BACKEND != "tensorflow" else {"jit_compile": False}
        model = trained(BatchNormalization, options, **how)
        found[name] = facts(model)
        model.save(own / f"{name}.keras")
        if name in STOCK:
            found[f"stock {name}"] = facts(trained(keras.layers.BatchNormalization, options))
    jit = {"jit_compile": BACKEND != "torch"}
    found["compiled"] = facts(trained(BatchNormalization, OPTIONS["renorm and ghosts"], **jit))
    found["eager"] = facts(trained(BatchNormalization, OPTIONS["renorm and ghosts"], run_eagerly=True))
    found["weighted"] = weighted()
    found["narrow"] = narrow()
    flat = {f"{case}/{name}": value for case, values in found.items() for name, value in values.items()}
    np.savez(own / "facts.npz", **flat)
    ours = "batchnorm._engines."
    engines = {name.removeprefix(ours).split(".")[0] for name in sys.modules if name.startswith(ours)}
    (own / "engines.txt").write_text("\n".join(engines))


def load(folder):
    """Predictions of every model saved so far."""
    predicted = {}
    for file in sorted(folder.glob("*/*.keras")):
        model = keras.saving.load_model(file)
        # Called and not told to predict, which would compile a function for each.
        y = model(data()[0], training=False)
        predicted[f"{file.parent.name}/{file.stem}"] = keras.ops.convert_to_numpy(y)
    np.savez(folder / f"{BACKEND}-loads.npz", **predicted)


if __name__ == "__main__":
    where = Path(sys.argv[1])
    load(where) if sys.argv[2:] == ["load"] else main(where)
