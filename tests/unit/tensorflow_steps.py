"""Training steps on the TensorFlow engine, and what they ought to be."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from batchnorm._core.engine import Inputs
from batchnorm._core.step import train
from batchnorm._engines import numpy as reference
from batchnorm._engines.tensorflow import engine, ops
from batchnorm._kernels import tensorflow as kernels
from batchnorm.layout import plan_layout
from batchnorm.options import Ghost, Options, Renorm
from tolerances import assert_close

needs_ops = pytest.mark.skipif(kernels.load() is None, reason=f"the ops are {kernels.why_missing()}")
SHAPE = (8, 3, 3, 5)
PLAIN = Options(axes=(3,))
OPTIONS = {
    "plain": PLAIN,
    "channels first": Options(axes=(1,)),
    "sample variance": Options(axes=(3,), variance="sample"),
    "renorm": Options(axes=(3,), renorm=Renorm()),
    "ghosts": Options(axes=(3,), ghost=Ghost(4)),
    "contiguous ghosts": Options(axes=(3,), ghost=Ghost(2, order="contiguous")),
    "ghosts with renorm": Options(axes=(1,), ghost=Ghost(4), renorm=Renorm()),
    "two axes": Options(axes=(1, 3)),
}
SLOTS = ("moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev")


def arrays(options: Options, dtype: str = "float32") -> tuple[Any, ...]:
    """x, gamma, beta and dy."""
    random = np.random.default_rng(0)
    channels = plan_layout(SHAPE, options.axes, options.ghost).channels
    stats = "float64" if dtype == "float64" else "float32"
    x, dy = (tf.cast(random.normal(1.0, 2.0, SHAPE), dtype) for _ in range(2))
    return x, *(tf.constant(random.uniform(0.5, 2.0, channels), stats) for _ in range(2)), dy


def forward(options: Options, x: Any, gamma: Any, beta: Any, weights: Any = None) -> Any:
    layout = plan_layout(ops.shape(x), options.axes, options.ghost)
    state = {slot: tf.zeros_like(beta) + (0.0 if slot.endswith("mean") else 1.5) for slot in SLOTS}
    return train(engine, options, layout, Inputs(x, gamma, beta, weights, state))


def step(options: Options, x: Any, gamma: Any, beta: Any, dy: Any) -> tuple[Any, ...]:
    """y, the batch's statistics, and the gradients."""
    with tf.GradientTape() as tape:
        tape.watch([x, gamma, beta])
        y, batch = forward(options, x, gamma, beta)
    return y, batch.mean, batch.stored_variance, *tape.gradient(y, [x, gamma, beta], output_gradients=dy)


def expected(options: Options, x: Any, gamma: Any, beta: Any, dy: Any) -> tuple[Any, ...]:
    layout = plan_layout(SHAPE, options.axes, options.ghost)
    x, gamma, beta, dy = (tf.cast(value, tf.float64).numpy() for value in (x, gamma, beta, dy))
    state = {slot: np.zeros_like(beta) + (0.0 if slot.endswith("mean") else 1.5) for slot in SLOTS}
    y, batch, pull = reference.pullback(options, layout, Inputs(x, gamma, beta, None, state))
    return y, batch.mean, batch.stored_variance, *pull(dy)[:3]


def check(got: Any, options: Options, given: tuple[Any, ...]) -> None:
    names = ("y", "mean", "variance", "dx", "dγ", "dβ")
    for name, value, want in zip(names, got, expected(options, *given), strict=True):
        largest = max(1.0, float(np.max(np.abs(want))))
        assert_close(tf.cast(value, tf.float64), want, value.dtype, name, scale=largest, summands=72)


def kinds(function: Any, *given: Any) -> set[str]:
    """The types of all operations of a function and of those it calls, that are ours."""
    return types(function.get_concrete_function(*given).graph)


def types(graph: Any) -> set[str]:
    """The same for a graph as it runs, which differs from how it is written."""
    serialize: Any = tf.Graph._as_graph_def
    graph, _ = serialize.__wrapped__(graph)
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    return {node.op for node in nodes if node.op.startswith("Batchnorm")}
