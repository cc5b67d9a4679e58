"""The TensorFlow engine's steps: eager, in a graph of unknown batch size, and in one of unknown sizes."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import tensorflow as tf

from batchnorm._core.adjustment import Adjustment
from batchnorm._core.engine import Inputs
from batchnorm._core.state import advance, initial_state
from batchnorm._core.step import infer, train
from batchnorm._engines.tensorflow import engine
from batchnorm.layout import plan_layout
from batchnorm.options import Options
from properties.cases import Array, Batch, Step
from properties.runners import Moving, check_dtypes, step_of

ops = engine.ops
EXAMPLES = {"eager": 50, "graph": 20, "unknown": 15}


class TensorFlow:
    """One mode of the engine: "eager", "graph" (unknown batch size) or "unknown" (unknown reduced sizes)."""

    dtypes = ("float64", "float64", "float32", "float32", "bfloat16", "float16")

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.name = f"tensorflow-{mode}"
        self.examples = EXAMPLES[mode]

    def differentiated(self, batch: Batch) -> set[str]:
        return set(batch.given)

    def train(self, options: Options, moving: Moving, batches: list[Batch]) -> list[Step]:
        state = initial_state(ops, options, *map(tf.constant, moving))
        step = self._made(train_step, options, batches[0], state)
        steps: list[Step] = []
        for batch in batches:
            y, state, gradients = step(tensors_of(batch), state)
            check_dtypes(batch, y, gradients, state)
            steps.append(step_of(y, state, gradients))
        return steps

    def infer(self, options: Options, moving: Moving, batch: Batch) -> Array:
        state = initial_state(ops, options, *map(tf.constant, moving))
        run = self._made(infer_step, options, batch, state)
        return step_of(run(tensors_of(batch), state), {}, {}).y

    def _made(
        self, step: Callable[..., Any], options: Options, batch: Batch, state: dict[str, Any]
    ) -> Callable[..., Any]:
        if self.mode == "eager":
            return partial(step, options)
        held = {name: tf.TensorSpec(v.shape, v.dtype) for name, v in state.items()}
        told = signature(options, batch, self.mode)
        return graph_of(step, options, tuple(told.items()), tuple(held.items()))


@lru_cache(maxsize=100)
def graph_of(step: Callable[..., Any], options: Options, told: Any, held: Any) -> Callable[..., Any]:
    """One graph for all cases of these options with the same signatures."""
    run = tf.function(partial(step, options), autograph=False)
    return run.get_concrete_function(dict(told), dict(held))


def signature(options: Options, batch: Batch, mode: str) -> dict[str, Any]:
    """What a graph is told of the arrays' shapes."""
    shape = batch.x.shape
    kept = {axis % len(shape) for axis in options.axes}
    lost = {axis for axis in range(len(shape)) if axis not in kept and (axis == 0 or mode == "unknown")}

    def spec(name: str, value: Array) -> Any:
        if name in ("dgamma", "dbeta"):
            return tf.TensorSpec(value.shape, value.dtype)
        first = len(shape) - value.ndim
        # Of weights and adjustments a size of 1 is known: it says that they repeat.
        repeats = name not in ("dx", "dy", "dresidual")
        sizes = enumerate(value.shape, first)
        known = [None if axis in lost and not (repeats and size == 1) else size for axis, size in sizes]
        return tf.TensorSpec(known, value.dtype)

    return {name: spec(name, value) for name, value in arrays_of(batch).items()}


def arrays_of(batch: Batch) -> dict[str, Array]:
    return {**batch.given, "dy": batch.dy}


def tensors_of(batch: Batch) -> dict[str, Any]:
    return {name: tf.constant(value) for name, value in arrays_of(batch).items()}


def train_step(options: Options, arrays: dict[str, Any], state: dict[str, Any]) -> tuple[Any, Any, Any]:
    """y, the state after the step, and the gradient of sum(dy * y) with respect to everything given."""
    sources = {name: value for name, value in arrays.items() if name != "dy"}
    with tf.GradientTape() as tape:
        tape.watch(sources)
        y, stats = forward(options, sources, state)
    gradients = tape.gradient(y, sources, arrays["dy"])
    assert None not in gradients.values()
    return y, advance(ops, options, state, stats), gradients


def infer_step(options: Options, arrays: dict[str, Any], state: dict[str, Any]) -> Any:
    x = arrays["dx"]
    layout = plan_layout(ops.shape(x), options.axes)
    parts = arrays.get("dgamma"), arrays.get("dbeta"), None, state
    return infer(engine, options, layout, Inputs(x, *parts, residual=arrays.get("dresidual")))


def forward(options: Options, sources: dict[str, Any], state: dict[str, Any]) -> tuple[Any, Any]:
    x = sources["dx"]
    layout = plan_layout(ops.shape(x), options.axes, options.ghost)
    parts = (sources.get(name) for name in ("dgamma", "dbeta", "dweights"))
    pair = None
    if "dscale_adjustment" in sources:
        pair = Adjustment(sources["dscale_adjustment"], sources["dbias_adjustment"])
    return train(engine, options, layout, Inputs(x, *parts, state, residual=sources.get("dresidual")), pair)
