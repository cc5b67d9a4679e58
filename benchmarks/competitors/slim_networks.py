"""Networks built with tf_slim in TensorFlow 1 graphs: with its normalization, and with ours instead."""

import sys
from importlib import import_module
from typing import Any

import numpy as np
import tensorflow as tf

from batchnorm.contrib.layers import batch_norm
from benchmarks.cases import CLASSES, Case
from benchmarks.competitors.data import OURS, RATE, Data, Step, losses_of, make_labels

__all__ = ["network_steps"]

v1: Any = tf.compat.v1
# One for each group of two blocks.
WIDTHS = (64, 128, 256, 512)
# The perceptron's layers, each as wide as the input.
HIDDEN = 10


def network_steps(case: Case, data: Data) -> dict[str, Step]:
    """Each step is a `session.run` of a training operation, from the same start."""
    slim = _slim()
    return {
        name: _step(slim, norm, case, data)
        for name, norm in ((OURS, batch_norm), ("tf_slim", slim.batch_norm))
    }


def _slim() -> Any:
    """tf_slim, with names that TensorFlow and tf_keras have moved put back where it looks for them."""
    from tensorflow.python.framework import ops
    from tensorflow.python.ops import control_flow_ops

    ops.Tensor, control_flow_ops.cond = tf.Tensor, v1.cond
    for name in ("", ".normalization"):
        sys.modules[f"tf_keras.legacy_tf_layers{name}"] = import_module(
            f"tf_keras.src.legacy_tf_layers{name}"
        )
    return import_module("tf_slim")


def _step(slim: Any, norm: Any, case: Case, data: Data) -> Step:
    with tf.Graph().as_default():
        is_rows, labels = len(case.shape) == 2, tf.constant(make_labels(case))
        x = v1.placeholder(tf.float32, [None if is_rows else case.shape[0], *case.shape[1:]])
        # Each run decides whether the perceptron trains, as in programs that use one graph for everything.
        training: Any = v1.placeholder_with_default(True, []) if is_rows else True
        with slim.arg_scope(
            [slim.conv2d, slim.fully_connected],
            normalizer_fn=norm,
            normalizer_params={"is_training": training, "scale": True, "decay": 0.997, "epsilon": 1e-5},
            weights_initializer=_Numbered(),
        ):
            logits = (_perceptron if is_rows else _residual)(slim, x)
        loss = v1.losses.sparse_softmax_cross_entropy(labels, logits)
        with tf.control_dependencies(v1.get_collection(v1.GraphKeys.UPDATE_OPS)):
            update = v1.train.GradientDescentOptimizer(RATE).minimize(loss)
        session = v1.Session()
        session.run(v1.global_variables_initializer())

    def one() -> Any:
        return session.run((loss, update), {x: data.x})[0]

    def step(read: bool = False) -> Any:
        return losses_of(one) if read else one()

    return step


def _perceptron(slim: Any, x: Any) -> Any:
    for _ in range(HIDDEN):
        x = slim.fully_connected(x, x.shape[-1])
    return _classify(slim, x)


def _residual(slim: Any, x: Any) -> Any:
    x = slim.max_pool2d(slim.conv2d(x, WIDTHS[0], 7, 2), 3, 2, padding="SAME")
    for group, width in enumerate(WIDTHS):
        for block in range(2):
            stride = 2 if group and not block else 1
            same = stride == 1 and x.shape[-1] == width
            shortcut = x if same else slim.conv2d(x, width, 1, stride, activation_fn=None)
            branch = slim.conv2d(slim.conv2d(x, width, 3, stride), width, 3, activation_fn=None)
            x = tf.nn.relu(branch + shortcut)
    return _classify(slim, tf.reduce_mean(x, (1, 2)))


def _classify(slim: Any, x: Any) -> Any:
    return slim.fully_connected(x, CLASSES, activation_fn=None, normalizer_fn=None)


class _Numbered:
    """He's initializer, which gives the n-th variable of every graph the same numbers."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def __call__(self, shape: Any, dtype: Any = None, partition_info: Any = None) -> Any:
        del dtype, partition_info
        deviation = (2.0 / np.prod(shape[:-1])) ** 0.5
        return tf.constant(self.random.standard_normal(shape, np.float32) * np.float32(deviation))
