"""The JAX engine's steps: operation by operation, compiled, and compiled with the CPU kernels."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache, partial
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np

from batchnorm._core.adjustment import Adjustment
from batchnorm._core.engine import Inputs
from batchnorm._core.state import advance, initial_state
from batchnorm._core.step import infer, train
from batchnorm._engines.jax import dispatch, engine
from batchnorm.layout import plan_layout
from batchnorm.options import Options
from properties.cases import Array, Batch, Step
from properties.runners import Moving, check_dtypes, step_of

ops = engine.ops
EXAMPLES = {"eager": 8, "jit": 6, "native": 12}
# The kernels take small inputs as well, but only from this size on do they win.
ALWAYS = patch.object(dispatch, "LARGE_INPUT", 0)


class Jax:
    """One mode of the engine: "eager", "jit" or "native". With double precision, so that arrays keep their dtypes."""

    dtypes = ("float64", "float64", "float32", "float32", "bfloat16", "float16")

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.name = f"jax-{mode}"
        self.examples = EXAMPLES[mode]

    def differentiated(self, batch: Batch) -> set[str]:
        return set(batch.given)

    def train(self, options: Options, moving: Moving, batches: list[Batch]) -> list[Step]:
        with jax.enable_x64(True):
            state = initial_state(ops, options, *map(jnp.asarray, moving))
            step = made(self.mode, train_step, options)
            steps: list[Step] = []
            for batch in batches:
                with ALWAYS if self.mode == "native" else nullcontext():
                    y, state, gradients = step(arrays_of(batch), jnp.asarray(batch.dy), state)
                check_dtypes(batch, y, gradients, state)
                steps.append(step_of(y, state, gradients))
            return steps

    def infer(self, options: Options, moving: Moving, batch: Batch) -> Array:
        with jax.enable_x64(True):
            state = initial_state(ops, options, *map(jnp.asarray, moving))
            return np.asarray(made(self.mode, infer_step, options)(arrays_of(batch), state), np.float64)


@lru_cache(maxsize=100)
def made(mode: str, step: Callable[..., Any], options: Options) -> Callable[..., Any]:
    """One function for all cases of these options: those of the same shapes and dtypes are compiled once."""
    run = partial(step, options)
    return run if mode == "eager" else jax.jit(run)


def arrays_of(batch: Batch) -> dict[str, Any]:
    return {name: jnp.asarray(value) for name, value in batch.given.items()}


def train_step(
    options: Options, arrays: dict[str, Any], dy: Any, state: dict[str, Any]
) -> tuple[Any, Any, Any]:
    """y, the state after the step, and the gradient of sum(dy * y) with respect to everything given."""
    y, pull, stats = jax.vjp(lambda given: forward(options, given, state), arrays, has_aux=True)
    (gradients,) = pull(dy)
    return y, advance(ops, options, state, stats), gradients


def infer_step(options: Options, arrays: dict[str, Any], state: dict[str, Any]) -> Any:
    x = arrays["dx"]
    layout = plan_layout(x.shape, options.axes)
    parts = arrays.get("dgamma"), arrays.get("dbeta"), None, state
    return infer(engine, options, layout, Inputs(x, *parts, residual=arrays.get("dresidual")))


def forward(options: Options, given: dict[str, Any], state: dict[str, Any]) -> tuple[Any, Any]:
    x = given["dx"]
    layout = plan_layout(x.shape, options.axes, options.ghost)
    parts = (given.get(name) for name in ("dgamma", "dbeta", "dweights"))
    pair = None
    if "dscale_adjustment" in given:
        pair = Adjustment(given["dscale_adjustment"], given["dbias_adjustment"])
    return train(engine, options, layout, Inputs(x, *parts, state, residual=given.get("dresidual")), pair)
