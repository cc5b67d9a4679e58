"""Writes, with tf_keras, the files that test_keras_saving reads: `python keras_2_files.py FOLDER`."""

import sys
from pathlib import Path

import numpy as np

CASES = {
    "plain": {},
    "ghosts": {"virtual_batch_size": 2},
    "two_axes": {"axis": [1, 3]},
    "ghosts_on_two_axes": {"axis": [1, 3], "virtual_batch_size": 2},
    "renorm_and_ghosts": {"axis": 1, "renorm": True, "virtual_batch_size": 4},
}


def inputs(t=0):
    return (np.random.RandomState(t).standard_normal((8, 3, 4, 5)) * 2 + 1).astype("float32")


def main(folder):
    import tf_keras

    for name, options in CASES.items():
        norm = tf_keras.layers.BatchNormalization(name="norm", momentum=0.5, **options)
        model = tf_keras.Sequential([tf_keras.Input((3, 4, 5)), norm])
        for t in (1, 2):
            model(inputs(t), training=True)
        norm.gamma.assign_add(np.random.RandomState(3).standard_normal(norm.gamma.shape))
        for ending in (".h5", ".weights.h5"):
            model.save_weights(folder / f"{name}{ending}")
        model.save(folder / f"{name}.keras")
        model.save(folder / f"{name}_model.h5")
        inference = model(inputs()).numpy()
        np.savez(folder / f"{name}.npz", inference=inference, training=model(inputs(), training=True).numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
