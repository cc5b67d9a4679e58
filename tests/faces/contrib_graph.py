"""One `batch_norm` in a graph of its own, trained step by step on NumPy arrays."""

import contextlib

import numpy as np
import tensorflow as tf

from batchnorm.contrib.layers import batch_norm

v1 = tf.compat.v1
START = {"gamma": 1.2, "beta": -0.3, "moving_mean": 0.4, "moving_variance": 1.5}


@contextlib.contextmanager
def graph(mode="tf2"):
    """A graph as TensorFlow 1 or 2 would fill it: kinds of variables and of control flow."""
    if mode == "tf1":
        v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default() as made:
            v1.get_variable_scope().set_use_resource(mode == "tf2")
            yield made
    finally:
        v1.enable_control_flow_v2()


def initializers():
    return {name: v1.constant_initializer(value) for name, value in START.items()}


def names(collection):
    """Members of a collection of the current graph, by the names of their ops."""
    return [getattr(m, "op", m).name for m in v1.get_collection(collection)]


class Net:
    """A training and an inference call that share variables; or, with `switch`, one call for both."""

    def __init__(self, shape, dtype="float64", switch=False, weighted=False, **options):
        self.x = v1.placeholder(dtype, [None, *shape[1:]])
        self.switch = v1.placeholder(tf.bool, []) if switch else None
        self.weights = v1.placeholder(tf.float32, [None]) if weighted else None
        options = {"scope": "n", "scale": True, "param_initializers": initializers()} | options
        if weighted:
            options["batch_weights"] = self.weights
        if switch:
            self.trained = self.inferred = batch_norm(self.x, is_training=self.switch, **options)
        else:
            self.trained = batch_norm(self.x, **options)
            self.inferred = batch_norm(self.x, is_training=False, **options | {"reuse": True})
        # Without `updates_collections` they come with y.
        along = "updates_collections" in options and options["updates_collections"] is None
        self.updates = [] if along else v1.get_collection(v1.GraphKeys.UPDATE_OPS)
        self.session = v1.Session()
        self.session.run(v1.global_variables_initializer())

    def train(self, x, weights=None):
        """y before the updates, and the statistics after them."""
        y = self.run(self.trained, x, True, weights)
        self.run(self.updates, x, True, weights)
        return y, self.statistics()

    def infer(self, x):
        return self.run(self.inferred, x, False, np.ones(len(x)))

    def run(self, fetches, x, training, weights=None):
        feed = {self.x: x}
        if self.switch is not None:
            feed[self.switch] = training
        if self.weights is not None:
            feed[self.weights] = weights
        return self.session.run(fetches, feed)

    def statistics(self):
        """The values of the untrained variables, by the last part of their names."""
        made = [v for v in v1.global_variables() if v not in v1.trainable_variables()]
        values = self.session.run(made)
        return {v.op.name.rsplit("/", 1)[-1]: value for v, value in zip(made, values, strict=True)}
