"""The JAX engine's steps: operation by operation, compiled, and compiled with the CPU kernels."""

from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np

from batchnorm._core.adjustment import Adjustment
from batchnorm._core.state import advance, initial_state
from batchnorm._core.step import infer, train
from batchnorm._engines.jax import engine, native
from batchnorm._engines.protocol import Inputs
from batchnorm.layout import plan_layout
from batchnorm.options import Options
from properties.cases import Array, Batch, Step
from properties.runners import Moving, check_dtypes, step_of

ops = engine.ops
# Each new shape is compiled, operation by operation or whole.
# What is run once or thrice is not worth optimizing.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
EXAMPLES = {"eager": 8, "jit": 6, "native": 12}
# The kernels take small inputs as well, but only from this size on do they win.
ALWAYS = patch.object(native, "LARGE_INPUT", 0)


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

            def step(arrays: dict[str, Any], dy: Any, state: dict[str, Any]) -> tuple[Any, Any, Any]:
                return train_step(options, arrays, dy, state)

            if self.mode != "eager":
                step = jax.jit(step, compiler_options=QUICKLY)
            steps: list[Step] = []
            for batch in batches:
                with ALWAYS if self.mode == "native" else nullcontext():
                    y, state, gradients = step(arrays_of(batch), jnp.asarray(batch.dy), state)
                check_dtypes(batch, y, gradients, state)
                steps.append(step_of(y, state, gradients))
            return steps

    def infer(self, options: Options, moving: Moving, batch: Batch) -> Array:
        def run(arrays: dict[str, Any], state: dict[str, Any]) -> Any:
            x = arrays["dx"]
            layout = plan_layout(x.shape, options.axes)
            return infer(
                engine, options, layout, Inputs(x, arrays.get("dgamma"), arrays.get("dbeta"), None, state)
            )

        with jax.enable_x64(True):
            state = initial_state(ops, options, *map(jnp.asarray, moving))
            y = (run if self.mode == "eager" else jax.jit(run, compiler_options=QUICKLY))(
                arrays_of(batch), state
            )
            return np.asarray(y, np.float64)


def arrays_of(batch: Batch) -> dict[str, Any]:
    return {name: jnp.asarray(value) for name, value in batch.given.items()}


def train_step(
    options: Options, arrays: dict[str, Any], dy: Any, state: dict[str, Any]
) -> tuple[Any, Any, Any]:
    """y, the state after the step, and the gradient of sum(dy * y) with respect to everything given."""
    y, pull, stats = jax.vjp(lambda given: forward(options, given, state), arrays, has_aux=True)
    (gradients,) = pull(dy)
    return y, advance(ops, options, state, stats), gradients


def forward(options: Options, given: dict[str, Any], state: dict[str, Any]) -> tuple[Any, Any]:
    x = given["dx"]
    layout = plan_layout(x.shape, options.axes, options.ghost)
    parts = (given.get(name) for name in ("dgamma", "dbeta", "dweights"))
    pair = None
    if "dscale_adjustment" in given:
        pair = Adjustment(given["dscale_adjustment"], given["dbias_adjustment"])
    return train(engine, options, layout, Inputs(x, *parts, state), pair)
