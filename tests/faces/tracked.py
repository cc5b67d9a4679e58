"""What the tests of tracked objects share: decorated modules, and layers as TensorFlow 1 programs write them."""

import numpy as np
import pytest
import tensorflow as tf

from batchnorm.compat.v1.keras.utils import track_tf1_style_variables
from batchnorm.compat.v1.layers import batch_normalization

v1 = tf.compat.v1
PARAMETERS = ("beta", "gamma", "moving_mean", "moving_variance")
X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32") + 1
both_ways = pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "function"])


def module(method):
    """An object whose decorated __call__ is the given function of (self, x)."""
    return type("Module", (tf.Module,), {"__call__": track_tf1_style_variables(method)})()


def names(tracked):
    return [v.name.removesuffix(":0") for v in tracked.variables]


def norm(x, **options):
    return batch_normalization(x, training=True, momentum=0.5, **options)


def dense(x, units=3, **options):
    """A layer as other programs write them by hand."""
    with v1.variable_scope("dense"):
        kernel = v1.get_variable("kernel", [x.shape[-1], units], **options)
        return x @ kernel + v1.get_variable("bias", [units], initializer=v1.zeros_initializer())
