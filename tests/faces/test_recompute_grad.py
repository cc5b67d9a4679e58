"""Functions that are run again for their gradient: the numbers and the moving statistics of one run."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from batchnorm.compat.v1 import layers, recompute_grad
from batchnorm.compat.v1.keras.utils import track_tf1_style_variables
from batchnorm.contrib.layers import batch_norm
from tolerances import assert_close

pytestmark = pytest.mark.needs("tensorflow")

X = np.random.RandomState(0).randn(8, 3).astype(np.float32) * 3.0 + 2.0
CLIPPING = {"rmax": 1.2, "rmin": 0.8, "dmax": 0.4}


def keras_layer() -> tuple[Any, Any]:
    from batchnorm.keras.layers import BatchNormalization

    layer = BatchNormalization(momentum=0.9, renorm=True, renorm_momentum=0.7)
    layer.build(X.shape)
    return (lambda x: layer(x, training=True)), layer


class V1(tf.Module):
    @track_tf1_style_variables
    def __call__(self, x: Any) -> Any:
        return layers.batch_normalization(
            x, momentum=0.9, renorm=True, renorm_momentum=0.7, training=True, name="bn"
        )


class Contrib(tf.Module):
    @track_tf1_style_variables
    def __call__(self, x: Any) -> Any:
        return batch_norm(x, decay=0.9, renorm=True, renorm_decay=0.7, fused=False, scope="bn")


def tracked(module: Any) -> tuple[Any, Any]:
    module(tf.constant(X))
    return module, module


MAKERS = {"keras": keras_layer, "v1": lambda: tracked(V1()), "contrib": lambda: tracked(Contrib())}


@pytest.mark.parametrize("mode", ["eager", "function"])
@pytest.mark.parametrize("face", MAKERS)
def test_one_run_counts(face, mode):
    """Two calls of one layer, then another step, all as if nothing were recomputed."""
    if face == "keras":
        pytest.importorskip("keras")
    results: list[list[Any]] = []
    for wrap in (recompute_grad, lambda function: function):
        layer, owner = MAKERS[face]()
        block = wrap(lambda x, layer=layer: tf.sin(layer(tf.sin(layer(x)))))
        variables = [v if isinstance(v, tf.Variable) else v.value for v in owner.variables]

        def step(x: Any, block: Any = block, owner: Any = owner) -> Any:
            weights = [v if isinstance(v, tf.Variable) else v.value for v in owner.trainable_variables]
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = tf.reduce_sum(block(x) ** 2)
            return tape.gradient(value, [x, *weights])

        if mode == "function":
            step = tf.function(step, autograph=False)
        gradients = [*step(tf.constant(X)), *step(tf.constant(X[::-1] * 0.5))]
        results.append([*gradients, *(v.numpy() for v in variables)])
    for value, want in zip(*results, strict=True):
        assert_close(value, want, "float32", face, within=2e-5)


def test_nested():
    results: list[list[Any]] = []
    for wrap in (recompute_grad, lambda function: function):
        module, _ = tracked(V1())
        inner = wrap(lambda x, module=module: tf.sin(module(x)))
        outer = wrap(lambda x, inner=inner, module=module: tf.sin(module(inner(x))))
        x = tf.constant(X)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(outer(x) ** 2)
        results.append([tape.gradient(value, x), *module.variables])
    for value, want in zip(*results, strict=True):
        assert_close(value, want, "float32", "nested", within=2e-5)


def test_a_graph():
    """In TensorFlow 1 the second run adds no update ops."""
    results: list[Any] = []
    for wrap in (recompute_grad, lambda function: function):
        with (
            tf.Graph().as_default(),
            tf.compat.v1.variable_scope("net", use_resource=True, reuse=tf.compat.v1.AUTO_REUSE),
        ):
            layer = layers.BatchNormalization(momentum=0.9, renorm=True, renorm_clipping=CLIPPING)
            x = tf.compat.v1.placeholder(tf.float32, [None, 3])
            layer.build([None, 3])
            y = wrap(lambda x, layer=layer: tf.sin(layer(x, training=True)))(x)
            (dx,) = tf.gradients(y**2, x)
            updates = tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.UPDATE_OPS)
            assert len(updates) == 2
            with tf.compat.v1.Session() as session:
                session.run(tf.compat.v1.global_variables_initializer())
                steps = [session.run([dx, updates], {x: X})[0] for _ in range(3)]
                results.append([*steps, *session.run(layer.variables)])
    for value, want in zip(*results, strict=True):
        assert_close(value, want, "float32", "a graph", within=2e-5)


def test_a_function_that_changes():
    module, _ = tracked(V1())
    calls: list[int] = []

    def block(x: Any) -> Any:
        calls.append(1)
        for _ in calls:
            x = module(x)
        return x

    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(recompute_grad(block)(x) ** 2)
    with pytest.raises(RuntimeError, match="more training steps than in its first run"):
        tape.gradient(value, x)


def test_training_known_at_run_time_only():
    pytest.importorskip("keras")
    from batchnorm.keras.layers import BatchNormalization

    layer = BatchNormalization(renorm=True)
    layer.build(X.shape)

    @tf.function(autograph=False)
    def step(x: Any, training: Any) -> Any:
        return recompute_grad(lambda x: layer(x, training=training))(x)

    with pytest.raises(RuntimeError, match="on one side of a condition"):
        step(tf.constant(X), tf.constant(True))
