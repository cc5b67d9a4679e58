"""TensorFlow: our Keras layer, tf_keras' (its fused kernel and without) and Keras 3's, in `tf.function`."""

from typing import Any

import keras
import tensorflow as tf
import tf_keras

from batchnorm.keras.layers import BatchNormalization
from benchmarks.cases import Case
from benchmarks.competitors import keras_networks, slim_networks
from benchmarks.competitors.data import APART, OURS, Data, Step, historical_options

__all__ = ["steps"]


def steps(case: Case, data: Data) -> dict[str, Step]:
    if case.phase == "network":
        networks = keras_networks if case.network == "MobileNetV2" else slim_networks
        return networks.network_steps(case, data)
    if case.activates:
        return _followed(case, data)
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


def _followed(case: Case, data: Data) -> dict[str, Step]:
    """A layer, an addition and a ReLU: in our layer, or one after another."""
    z = tf.constant(data.residual) if case.adds else None
    joint = BatchNormalization(axis=case.axis, activation="relu")
    layers = {
        APART: BatchNormalization(axis=case.axis),
        "tf_keras": tf_keras.layers.BatchNormalization(axis=case.axis),
        "Keras 3": keras.layers.BatchNormalization(axis=case.axis),
    }
    x, dy = tf.constant(data.x), tf.constant(data.dy)

    def apart(layer: Any) -> Any:
        def call(x: Any, z: Any = None, *, training: bool) -> Any:
            y = layer(x, training=training)
            return tf.nn.relu(y if z is None else y + z)

        return call

    def together(x: Any, z: Any = None, *, training: bool) -> Any:
        return joint(x, training=training, residual=z)

    made = {OURS: _step(joint, case, x, dy, {}, together, z)}
    return made | {name: _step(layer, case, x, dy, {}, apart(layer), z) for name, layer in layers.items()}


def _step(
    layer: Any, case: Case, x: Any, dy: Any, masked: dict[str, Any], call: Any = None, z: Any = None
) -> Step:
    layer.build(case.shape)
    trained, call = [_variable(weight) for weight in layer.trainable_weights], call or layer
    inputs = [x] if z is None else [x, z]

    def training_step(dy: Any, *inputs: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = call(*inputs, training=True, **masked)
        return y, *tape.gradient(y, [*inputs, *trained], output_gradients=dy)

    def forward(dy: Any, *inputs: Any) -> Any:
        del dy
        return (call(*inputs, training=True, **masked),)

    def inference(dy: Any, *inputs: Any) -> Any:
        del dy
        return (call(*inputs, training=False),)

    phases = {"training step": training_step, "forward": forward, "inference": inference}
    compiled = tf.function(phases[case.phase], autograph=False)

    def step(read: bool = False) -> Any:
        results = compiled(dy, *inputs)
        return [tf.cast(value, tf.float32).numpy() for value in results] if read else results

    return step


def _variable(weight: Any) -> Any:
    """TensorFlow's own variable, which Keras 3 wraps."""
    return getattr(weight, "value", weight) if isinstance(weight, keras.Variable) else weight
