"""TensorFlow: our Keras layer, tf_keras' (its fused kernel and without) and Keras 3's, in `tf.function`."""

from typing import Any

import keras
import tensorflow as tf
import tf_keras

from batchnorm.keras.layers import BatchNormalization
from benchmarks.cases import Case
from benchmarks.competitors import keras_networks, slim_networks
from benchmarks.competitors.data import OURS, Data, Step, historical_options

__all__ = ["steps"]


def steps(case: Case, data: Data) -> dict[str, Step]:
    if case.phase == "network":
        networks = keras_networks if case.network == "MobileNetV2" else slim_networks
        return networks.network_steps(case, data)
    options: dict[str, Any] = {"axis": case.axis, **historical_options(case)}
    if case.option == "bfloat16":
        options["dtype"] = "mixed_bfloat16"
    layers = {OURS: BatchNormalization(**options)}
    # tf_keras' fused kernel ignores masks.
    if case.option != "weighted":
        layers["tf_keras"] = tf_keras.layers.BatchNormalization(**options)
    if case.option in ("plain", "weighted") and len(case.shape) == 4:
        layers["tf_keras, fused=False"] = tf_keras.layers.BatchNormalization(**options, fused=False)
    if case.option != "ghost 16":
        layers["Keras 3"] = keras.layers.BatchNormalization(**options)
    dtype = tf.bfloat16 if case.option == "bfloat16" else tf.float32
    x, dy = (tf.cast(value, dtype) for value in (data.x, data.dy))
    masked = {"mask": tf.constant(data.mask)} if case.option == "weighted" else {}
    return {name: _step(layer, case, x, dy, masked) for name, layer in layers.items()}


def _step(layer: Any, case: Case, x: Any, dy: Any, masked: dict[str, Any]) -> Step:
    layer.build(case.shape)
    trained = [_variable(weight) for weight in layer.trainable_weights]

    def training_step(x: Any, dy: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, **masked)
        return y, *tape.gradient(y, [x, *trained], output_gradients=dy)

    def forward(x: Any, dy: Any) -> Any:
        del dy
        return (layer(x, training=True, **masked),)

    def inference(x: Any, dy: Any) -> Any:
        del dy
        return (layer(x, training=False),)

    phases = {"training step": training_step, "forward": forward, "inference": inference}
    compiled = tf.function(phases[case.phase], autograph=False)

    def step(read: bool = False) -> Any:
        results = compiled(x, dy)
        return [tf.cast(value, tf.float32).numpy() for value in results] if read else results

    return step


def _variable(weight: Any) -> Any:
    """TensorFlow's own variable, which Keras 3 wraps."""
    return getattr(weight, "value", weight) if isinstance(weight, keras.Variable) else weight
