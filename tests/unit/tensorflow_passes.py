"""Layouts for the TensorFlow engine's passes, and steps on them."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from batchnorm._core.engine import Inputs
from batchnorm._core.step import train
from batchnorm._engines.tensorflow import engine, ops
from batchnorm.layout import plan_layout
from batchnorm.options import Ghost, Options

DTYPES = ("float32", "float64", "float16", "bfloat16")


class Case(NamedTuple):
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    ghost: Ghost | None = None


CONTIGUOUS = {"order": "contiguous"}
CASES = {
    "matrix": Case((6, 5), (1,)),
    "matrix, channels first": Case((6, 5), (0,)),
    "vector": Case((7,), (0,)),
    "long matrix": Case((37, 3), (1,)),
    "images": Case((4, 3, 2, 5), (3,)),
    "images, channels first": Case((8, 5, 3, 2), (1,)),
    "one channel": Case((4, 3, 2, 1), (3,)),
    "one pixel": Case((4, 1, 1, 5), (3,)),
    "two axes apart": Case((4, 3, 2, 5), (1, 3)),
    "two axes together": Case((4, 3, 2, 5), (1, 2)),
    "batch axis and channels": Case((4, 3, 2, 5), (0, 3)),
    "every axis": Case((4, 3, 2), (0, 1, 2)),
    "three axes apart": Case((3, 2, 3, 2, 2, 3), (1, 3, 5)),
    "ghosts of a matrix": Case((12, 5), (1,), Ghost(3)),
    "ghosts of a matrix, contiguous": Case((12, 5), (1,), Ghost(3, **CONTIGUOUS)),
    "one ghost": Case((6, 5), (1,), Ghost(6)),
    "ghosts of one": Case((6, 5), (1,), Ghost(1)),
    "ghosts": Case((20, 3, 2, 5), (3,), Ghost(10)),
    "ghosts, contiguous": Case((4, 3, 2, 5), (3,), Ghost(2, **CONTIGUOUS)),
    "ghosts, channels first": Case((12, 5, 3, 7), (1,), Ghost(6)),
    "ghosts, channels first, contiguous": Case((4, 5, 3, 2), (1,), Ghost(2, **CONTIGUOUS)),
    "ghosts, two axes apart": Case((4, 3, 2, 5), (1, 3), Ghost(2)),
    "ghosts, three axes apart": Case((4, 2, 3, 2, 2, 3), (1, 3, 5), Ghost(2)),
}


def exact(value: Any) -> Any:
    return None if value is None else tf.cast(value, tf.float64).numpy()


def steps(options: Options, x: Any, gamma: Any, beta: Any, weights: Any, dy: Any) -> list[Any]:
    """y, the batch's mean and variance, and the gradients."""
    state = {slot: tf.ones_like(gamma) for slot in ("moving_mean", "moving_variance", "moving_stddev")}
    state |= {"renorm_mean": tf.zeros_like(gamma), "renorm_stddev": 2.0 * tf.ones_like(gamma)}
    sources = [source for source in (x, gamma, beta, weights) if source is not None]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        layout = plan_layout(ops.shape(x), options.axes, options.ghost)
        y, batch = train(engine, options, layout, Inputs(x, gamma, beta, weights, state))
    return [y, batch.mean, batch.variance, *tape.gradient(y, sources, output_gradients=dy)]


def step_inputs(case: Case, dtype: str = "float32") -> list[Any]:
    random = np.random.default_rng(1)
    channels = plan_layout(case.shape, case.axes, case.ghost).channels
    stats = "float64" if dtype == "float64" else "float32"
    x, dy = (tf.cast(random.normal(1.0, 2.0, case.shape), dtype) for _ in range(2))
    gamma, beta = (tf.constant(random.uniform(0.5, 2.0, channels), stats) for _ in range(2))
    return [x, gamma, beta, None, dy]
