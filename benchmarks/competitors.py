"""The layers that are compared, each as one compiled function of x and dy."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras

from batchnorm.keras.layers import BatchNormalization
from benchmarks.cases import GHOST_SIZE, Case

__all__ = ["OURS", "Step", "check_agreement", "copy", "inputs", "steps"]

Step = Callable[[], Any]
OURS = "batchnorm"


def inputs(case: Case) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """x, dy and a mask that leaves out a fifth."""
    random = np.random.default_rng(0)
    x = random.standard_normal(case.shape, np.float32) * 1.5 + 0.3
    dy = random.standard_normal(case.shape, np.float32)
    return tf.constant(x), tf.constant(dy), tf.constant(random.random(case.mask_shape) > 0.2)


def steps(case: Case, x: tf.Tensor, dy: tf.Tensor, mask: tf.Tensor) -> dict[str, Step]:
    """By competitor, those that have the option."""
    masked = {"mask": mask} if case.option == "weighted" else {}
    return {name: _step(layer, case, x, dy, masked) for name, layer in _layers(case).items()}


def copy(x: tf.Tensor) -> Step:
    """One reading and one writing of the same array, on all threads."""
    add = tf.function(lambda x: x + 1.0, autograph=False)
    return lambda: add(x)


def check_agreement(case: Case, results: dict[str, Any]) -> None:
    """Refuse to time what computes something else.

    Raises:
        AssertionError: a competitor's output, gradient or moving average differs from ours.
    """
    ours = tf.nest.flatten(results[OURS])
    for name, result in results.items():
        for value, expected in zip(tf.nest.flatten(result), ours, strict=True):
            scale = float(np.abs(expected).max())
            np.testing.assert_allclose(
                value, expected, rtol=1e-3, atol=1e-4 * scale, err_msg=f"{name} disagrees with us on {case}"
            )


def _layers(case: Case) -> dict[str, Any]:
    options: dict[str, Any] = {"axis": case.axis}
    if case.option == "renorm":
        options["renorm"] = True
    if case.option == "ghost 16":
        options["virtual_batch_size"] = GHOST_SIZE
    layers = {OURS: BatchNormalization(**options)}
    # tf_keras' fused kernel ignores masks.
    unfused = {"fused": False} if case.option == "weighted" else {}
    layers["tf_keras"] = tf_keras.layers.BatchNormalization(**options, **unfused)
    if case.option != "ghost 16":
        layers["Keras 3"] = keras.layers.BatchNormalization(**options)
    return layers


def _step(layer: Any, case: Case, x: tf.Tensor, dy: tf.Tensor, masked: dict[str, tf.Tensor]) -> Step:
    layer.build(case.shape)
    trained = [_variable(weight) for weight in layer.trainable_weights]

    def training_step(x: tf.Tensor, dy: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, **masked)
        return y, tape.gradient(y, [x, *trained], output_gradients=dy)

    def forward(x: tf.Tensor, dy: tf.Tensor) -> Any:
        del dy
        return layer(x, training=True, **masked)

    def inference(x: tf.Tensor, dy: tf.Tensor) -> Any:
        del dy
        return layer(x, training=False)

    phases = {"training step": training_step, "forward": forward, "inference": inference}
    compiled = tf.function(phases[case.phase], autograph=False)

    def step() -> Any:
        return compiled(x, dy)

    step.state = lambda: {  # type: ignore[attr-defined]
        name: _variable(getattr(layer, name)).numpy() for name in ("moving_mean", "moving_variance")
    }
    return step


def _variable(weight: Any) -> Any:
    """TensorFlow's own variable, which Keras 3 wraps."""
    return getattr(weight, "value", weight) if isinstance(weight, keras.Variable) else weight
