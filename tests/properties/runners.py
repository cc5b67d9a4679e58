"""How each engine runs training steps on NumPy arrays: one line in `RUNNERS` per engine and mode."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pytest

from batchnorm._core.adjustment import Adjustment
from batchnorm._core.engine import Inputs
from batchnorm._core.state import advance, initial_state
from batchnorm._core.step import infer, train
from batchnorm._engines.numpy import composed as engine
from batchnorm._engines.numpy import pullback
from batchnorm.layout import plan_layout
from batchnorm.options import Options
from properties.cases import Array, Batch, Step

Moving = tuple[Array, Array]


class Runner(Protocol):
    """An engine in one mode. `examples` is how many random cases it is worth waiting for."""

    name: str
    dtypes: tuple[str, ...]
    examples: int

    def differentiated(self, batch: Batch) -> set[str]:
        """Which gradients a step has, by the oracle's names."""
        ...

    def train(self, options: Options, moving: Moving, batches: list[Batch]) -> list[Step]:
        """Steps from the state that begins with this moving mean and variance."""
        ...

    def infer(self, options: Options, moving: Moving, batch: Batch) -> Array: ...


class NumPy:
    """The reference; without a tape there is no gradient of an adjustment."""

    name = "numpy"
    dtypes = ("float64", "float64", "float32", "float16", "bfloat16")
    examples = 250

    def differentiated(self, batch: Batch) -> set[str]:
        return set() if batch.adjustment is not None else set(batch.given)

    # what a weightless batch divides by zero is thrown away
    @np.errstate(divide="ignore", invalid="ignore")
    def train(self, options: Options, moving: Moving, batches: list[Batch]) -> list[Step]:
        ops = engine.ops
        state = initial_state(ops, options, *moving)
        steps: list[Step] = []
        for batch in batches:
            layout = plan_layout(batch.x.shape, options.axes, options.ghost)
            given = batch.x, batch.gamma, batch.beta, batch.weights, state
            inputs = Inputs(*given, residual=batch.residual)
            gradients: dict[str, Array] = {}
            if batch.adjustment is None:
                y, stats, pull = pullback(options, layout, inputs)
                fields = pull(batch.dy)._asdict()
                gradients = {f"d{name}": value for name, value in fields.items() if value is not None}
            else:
                y, stats = train(engine, options, layout, inputs, Adjustment(*batch.adjustment))
            state = advance(ops, options, state, stats)
            check_dtypes(batch, y, gradients, state)
            steps.append(step_of(y, state, gradients))
        return steps

    def infer(self, options: Options, moving: Moving, batch: Batch) -> Array:
        state = initial_state(engine.ops, options, *moving)
        layout = plan_layout(batch.x.shape, options.axes)
        inputs = Inputs(batch.x, batch.gamma, batch.beta, None, state, residual=batch.residual)
        y = infer(engine, options, layout, inputs)
        return np.asarray(y, np.float64)


def step_of(y: Any, state: dict[str, Any], gradients: dict[str, Any]) -> Step:
    def wide(values: dict[str, Any]) -> dict[str, Array]:
        return {name: np.asarray(value, np.float64) for name, value in values.items()}

    return Step(np.asarray(y, np.float64), wide(state), wide(gradients))


def check_dtypes(batch: Batch, y: Any, gradients: dict[str, Any], state: dict[str, Any]) -> None:
    """y and each gradient in the dtype of what it belongs to, the state in that of the statistics."""
    assert np.asarray(y).dtype == batch.x.dtype
    held = np.float32 if batch.x.dtype.itemsize == 2 else batch.x.dtype
    for name, value in state.items():
        assert np.asarray(value).dtype == held, name
    for name, value in gradients.items():
        assert np.asarray(value).dtype == batch.given[name].dtype, name


def tensorflow(mode: str) -> Callable[[], Runner]:
    def make() -> Runner:
        pytest.importorskip("tensorflow", reason="needs batchnorm[tensorflow]")
        from properties.tensorflow_runner import TensorFlow

        return TensorFlow(mode)

    return make


def torch(mode: str) -> Callable[[], Runner]:
    def make() -> Runner:
        pytest.importorskip("torch", reason="needs batchnorm[torch]")
        from properties.torch_runner import Torch

        return Torch(mode)

    return make


def jax(mode: str) -> Callable[[], Runner]:
    def make() -> Runner:
        pytest.importorskip("jax", reason="needs batchnorm[jax]")
        from properties.jax_runner import Jax

        return Jax(mode)

    return make


RUNNERS: dict[str, Callable[[], Runner]] = {
    "numpy": NumPy,
    "tensorflow-eager": tensorflow("eager"),
    "tensorflow-graph": tensorflow("graph"),
    "tensorflow-unknown": tensorflow("unknown"),
    "torch-eager": torch("eager"),
    "torch-func": torch("func"),
    "jax-eager": jax("eager"),
    "jax-jit": jax("jit"),
    "jax-native": jax("native"),
}
