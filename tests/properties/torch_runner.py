"""The PyTorch engine's steps: eager on its kernels, and traced as `torch.func` and the compilers do it."""

from typing import Any

import ml_dtypes
import numpy as np
import torch

from batchnorm._core.adjustment import Adjustment
from batchnorm._core.engine import Batch as Told
from batchnorm._core.engine import Inputs
from batchnorm._core.state import advance, initial_state
from batchnorm._core.step import infer, train
from batchnorm._engines.torch import engine
from batchnorm.layout import plan_layout
from batchnorm.options import Options
from properties.cases import Array, Batch, Step
from properties.runners import Moving, check_dtypes, step_of

ops = engine.ops
EXAMPLES = {"eager": 60, "func": 20}


class Torch:
    """One mode of the engine: "eager", or "func" (under `torch.func.vjp`, by the composed passes)."""

    dtypes = ("float64", "float64", "float32", "float32", "bfloat16", "float16")

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.name = f"torch-{mode}"
        self.examples = EXAMPLES[mode]

    def differentiated(self, batch: Batch) -> set[str]:
        return set(batch.given)

    def train(self, options: Options, moving: Moving, batches: list[Batch]) -> list[Step]:
        state = initial_state(ops, options, *map(tensor_of, moving))
        steps: list[Step] = []
        for batch in batches:
            run = self._eager if self.mode == "eager" else self._func
            y, stats, gradients = run(options, tensors_of(batch), tensor_of(batch.dy), state)
            state = advance(ops, options, state, stats)
            found = array_of(y), {k: array_of(v) for k, v in gradients.items()}
            held = {k: array_of(v) for k, v in state.items()}
            check_dtypes(batch, *found, held)
            steps.append(step_of(found[0], held, found[1]))
        return steps

    def infer(self, options: Options, moving: Moving, batch: Batch) -> Array:
        state = initial_state(ops, options, *map(tensor_of, moving))
        given = tensors_of(batch)
        layout = plan_layout(batch.x.shape, options.axes)
        parameters = given.get("dgamma"), given.get("dbeta")
        inputs = Inputs(given["dx"], *parameters, None, state, residual=given.get("dresidual"))
        return step_of(array_of(infer(engine, options, layout, inputs)), {}, {}).y

    def _eager(self, options: Options, given: dict[str, Any], dy: Any, state: dict[str, Any]) -> Any:
        sources = {name: value.requires_grad_() for name, value in given.items()}
        y, stats = forward(options, sources, state)
        assert not any(value is not None and value.requires_grad for value in stats)
        gradients = torch.autograd.grad(y, list(sources.values()), dy)
        return y.detach(), stats, dict(zip(sources, gradients, strict=True))

    def _func(self, options: Options, given: dict[str, Any], dy: Any, state: dict[str, Any]) -> Any:
        def run(given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            y, stats = forward(options, given, state)
            return y, {name: value for name, value in stats._asdict().items() if value is not None}

        y, pull, stats = torch.func.vjp(run, given, has_aux=True)
        return y, Told(**{"has_weight": None} | stats), pull(dy)[0]


def forward(options: Options, sources: dict[str, Any], state: dict[str, Any]) -> tuple[Any, Any]:
    x = sources["dx"]
    layout = plan_layout(ops.shape(x), options.axes, options.ghost)
    parts = (sources.get(name) for name in ("dgamma", "dbeta", "dweights"))
    pair = None
    if "dscale_adjustment" in sources:
        pair = Adjustment(sources["dscale_adjustment"], sources["dbias_adjustment"])
    return train(engine, options, layout, Inputs(x, *parts, state, residual=sources.get("dresidual")), pair)


def tensors_of(batch: Batch) -> dict[str, Any]:
    return {name: tensor_of(value) for name, value in batch.given.items()}


def tensor_of(value: Array) -> Any:
    """PyTorch reads no bfloat16 of NumPy's."""
    value = np.asarray(value)
    if value.dtype == ml_dtypes.bfloat16:
        return torch.tensor(value.astype(np.float32)).to(torch.bfloat16)
    return torch.tensor(value)


def array_of(value: Any) -> Array:
    value = value.detach()
    if value.dtype == torch.bfloat16:
        return value.float().numpy().astype(ml_dtypes.bfloat16)
    return value.numpy()
