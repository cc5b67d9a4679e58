"""What a scenario works with: the same names on every side, filled by an original or by our package."""

import contextlib
import os
import sys
from functools import cached_property
from importlib import import_module
from types import SimpleNamespace

# `original` needs TF_USE_LEGACY_KERAS for tf.compat.v1.layers; contrib's original (tf_slim) lives beside it.
SIDES = ("original", "keras3", "ours", "ours_legacy")
ALIASES = {"tf_keras": "original", "tf_slim": "original"}
MODES = ("tf1", "tf2")


def environment(side):
    """The environment of a worker of this side; every side says what it needs and clears the rest."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("TF_", "KERAS_", "PYTEST_"))}
    env |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1"}
    if side in ("original", "ours_legacy"):
        env["TF_USE_LEGACY_KERAS"] = "1"
    return env


class Api:
    """The four APIs of one side in one mode, each imported on first use: one missing breaks no other."""

    def __init__(self, side, mode):
        import numpy
        import tensorflow

        self.side, self.mode = side, mode
        self.is_ours = side.startswith("ours")
        self.tf, self.v1, self.np = tensorflow, tensorflow.compat.v1, numpy
        tensorflow.config.threading.set_intra_op_parallelism_threads(1)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
        if mode == "tf1":
            tensorflow.compat.v1.disable_v2_behavior()

    @cached_property
    def slim(self):
        """tf_slim, with what TensorFlow and tf_keras have moved put back where it looks for them."""
        from tensorflow.python.framework import ops
        from tensorflow.python.ops import control_flow_ops

        ops.Tensor = self.tf.Tensor
        control_flow_ops.cond = self.v1.cond
        if self.side == "original":
            for name in ("", ".normalization"):
                moved = import_module(f"tf_keras.src.legacy_tf_layers{name}")
                sys.modules[f"tf_keras.legacy_tf_layers{name}"] = moved
        return import_module("tf_slim")

    @cached_property
    def layers(self):
        if self.is_ours:
            return import_module("batchnorm.compat.v1.layers")
        return self.v1.layers

    @cached_property
    def contrib(self):
        if self.is_ours:
            return SimpleNamespace(
                batch_norm=import_module("batchnorm.contrib.layers").batch_norm,
                arg_scope=import_module("batchnorm.contrib.framework").arg_scope,
            )
        return SimpleNamespace(batch_norm=self.slim.layers.batch_norm, arg_scope=self.slim.arg_scope)

    @cached_property
    def keras(self):
        """What `tf.keras` is on this side."""
        return import_module("tf_keras" if self.side in ("original", "ours_legacy") else "keras")

    @cached_property
    def keras_layer(self):
        """The Keras layer class."""
        if self.is_ours:
            return import_module("batchnorm.keras.layers").BatchNormalization
        return self.keras.layers.BatchNormalization

    @cached_property
    def tracking(self):
        if self.is_ours:
            return import_module("batchnorm.compat.v1.keras.utils")
        return import_module("tf_keras.src.legacy_tf_layers.variable_scope_shim")

    @contextlib.contextmanager
    def graph_session(self):
        """A fresh graph, and a function that opens a one-thread session on it once the graph is complete."""
        config = self.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
        # Optimizing the graphs takes longer than running them. Ours are, as in programs; the originals need not be.
        config.graph_options.rewrite_options.disable_meta_optimizer = not self.is_ours
        with self.tf.Graph().as_default() as graph, contextlib.ExitStack() as stack:
            yield graph, lambda: stack.enter_context(self.v1.Session(graph=graph, config=config))
