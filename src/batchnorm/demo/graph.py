"""The network as a TensorFlow 1 program: a graph, a session, and updates taken from their collection."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray

from batchnorm.demo.network import CONVOLUTIONS, LEARNING_RATE, Weights, norm_name

__all__ = ["Call", "GraphNetwork", "Normalize"]

v1 = tf.compat.v1
Tensor = Any
# The placeholders of a call, by name: `training`, `rate`, and what else a program has in its `defaults`.
Call = Mapping[str, Tensor]
Normalize = Callable[[Tensor, str, Call], Tensor]


class GraphNetwork:
    """The network with `normalize(x, name, call)` after each convolution."""

    def __init__(
        self,
        weights: Weights,
        normalize: Normalize,
        defaults: Mapping[str, float] | None = None,
    ) -> None:
        graph = tf.Graph()
        with graph.as_default():
            self._images = v1.placeholder(tf.float32, [None, 8, 8, 1], name="images")
            self._labels = v1.placeholder(tf.int64, [None], name="labels")
            known = {"training": False, "rate": LEARNING_RATE, **(defaults or {})}
            self._call = {name: v1.placeholder_with_default(value, [], name) for name, value in known.items()}
            self._logits = _predict(self._images, weights, normalize, self._call)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=self._labels, logits=self._logits)
            self._loss = tf.reduce_mean(losses)
            with tf.control_dependencies(graph.get_collection(v1.GraphKeys.UPDATE_OPS)):
                self._step = v1.train.GradientDescentOptimizer(self._call["rate"]).minimize(self._loss)
            self._moving = {
                variable.op.name: variable
                for variable in v1.global_variables()
                if variable.op.name.endswith(("moving_mean", "moving_variance"))
            }
            self._session = v1.Session()
            self._session.run(v1.global_variables_initializer())

    def train(self, images: NDArray[Any], labels: NDArray[Any], given: Mapping[str, float]) -> float:
        """One step of gradient descent with the placeholders as given; the batch's loss before it."""
        feed = {self._images: images, self._labels: labels, self._call["training"]: True}
        feed |= {self._call[name]: value for name, value in given.items()}
        return float(self._session.run([self._loss, self._step], feed)[0])

    def logits(self, images: NDArray[Any], training: bool) -> NDArray[Any]:
        """The logits by the batch's statistics or by the moving ones; no update runs."""
        return self._session.run(self._logits, {self._images: images, self._call["training"]: training})

    def statistics(self) -> dict[str, NDArray[Any]]:
        """The moving statistics by their variables' names."""
        return self._session.run(self._moving)


def _predict(images: Tensor, weights: Weights, normalize: Normalize, call: Call) -> Tensor:
    variables = {name: v1.get_variable(name, initializer=value) for name, value in weights.items()}
    x = images
    for name, (_, _, stride, padding) in CONVOLUTIONS.items():
        x = tf.nn.conv2d(x, variables[name], stride, padding)
        x = tf.nn.elu(normalize(x, norm_name(name), call))
    return tf.squeeze(x, [1, 2]) @ variables["dense/kernel"] + variables["dense/offset"]
