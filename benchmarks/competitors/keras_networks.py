"""MobileNetV2 of `keras.applications` in `fit`, with Keras 3's layers and with ours in their place,
joined with what follows the normalization or not.
"""

from typing import Any

import keras
import numpy as np

from batchnorm.keras import convert
from benchmarks.cases import CLASSES, Case
from benchmarks.competitors.data import APART, OURS, RATE, Data, Step, losses_of, make_labels

__all__ = ["network_steps"]

# Batches in a call of `fit`, by Keras' backend. What a call costs besides its steps is as much as a step or two on
# TensorFlow; on JAX, whose depthwise convolutions take seconds on a CPU, it is nothing.
BATCHES = {"tensorflow": 4, "jax": 1}


def network_steps(case: Case, data: Data) -> dict[str, Step]:
    """Each step is a call of `fit` on a few batches, from the same start, compiled as Keras does by default."""
    keras.utils.set_random_seed(0)
    shape = case.shape[1:]
    network = keras.applications.MobileNetV2(weights=None, input_shape=shape, classes=CLASSES)
    made = {OURS: convert(network, fuse=True), APART: convert(network, fuse=False), "Keras 3": network}
    return {name: _step(each, case, data) for name, each in made.items()}


def _step(network: Any, case: Case, data: Data) -> Step:
    network.compile(keras.optimizers.SGD(RATE), "sparse_categorical_crossentropy")
    labels = make_labels(case)

    def fit(times: int) -> Any:
        x, y = np.concatenate([data.x] * times), np.concatenate([labels] * times)
        history = network.fit(x, y, batch_size=case.shape[0], shuffle=False, verbose=0)
        return history.history["loss"][0]

    def step(read: bool = False) -> Any:
        return losses_of(lambda: fit(1)) if read else fit(BATCHES[keras.backend.backend()])

    return step
