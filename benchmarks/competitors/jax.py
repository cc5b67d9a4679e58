"""JAX, under `jit`: our nnx module and Flax's; for ghost batches a loop over chunks that XLA compiles as a whole."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from batchnorm.flax import BatchNorm
from benchmarks.cases import BLOCKS, GHOST_SIZE, Case
from benchmarks.competitors.data import APART, OURS, Data, Step, historical_options

__all__ = ["steps"]

# XLA compiles a loop over more chunks for minutes.
MOST_CHUNKS = 32


def steps(case: Case, data: Data) -> dict[str, Step]:
    dtype = jnp.bfloat16 if case.option == "bfloat16" else jnp.float32
    x, dy = (jnp.asarray(value, dtype) for value in (data.x, data.dy))
    if case.phase == "network":
        made = {OURS: (BatchNorm, True), APART: (BatchNorm, False), "flax.nnx": (nnx.BatchNorm, False)}
        return {name: _step(Network(*each, case.shape[-1]), case, x, dy, {}) for name, each in made.items()}
    common: dict[str, Any] = {"axis": case.axis, "epsilon": 1e-3, "rngs": nnx.Rngs(0)}
    if case.option == "bfloat16":
        common["dtype"] = jnp.bfloat16
    channels = case.shape[case.axis]
    if case.activates:
        z = jnp.asarray(data.residual, dtype) if case.adds else None
        joint = BatchNorm(channels, **common, activation="relu")
        made = {OURS: _step(joint, case, x, dy, {}, z=z)}
        for name, kind in {APART: BatchNorm, "flax.nnx": nnx.BatchNorm}.items():
            made[name] = _step(kind(channels, **common), case, x, dy, {}, _followed, z)
        return made
    masked = {"mask": jnp.asarray(data.mask)[..., None]} if case.option == "weighted" else {}
    made = {OURS: _step(BatchNorm(channels, **common, **historical_options(case)), case, x, dy, masked)}
    if case.option not in ("renorm", "ghost 16"):
        made["flax.nnx"] = _step(nnx.BatchNorm(channels, **common), case, x, dy, masked)
    if case.option == "ghost 16" and case.shape[0] <= MOST_CHUNKS * GHOST_SIZE:
        layer = nnx.BatchNorm(channels, **common)
        made["loop over chunks"] = _step(layer, case, x, dy, masked, _by_chunks)
    return made


def _step(
    layer: Any,
    case: Case,
    x: Any,
    dy: Any,
    masked: dict[str, Any],
    call: Callable[..., Any] | None = None,
    z: Any = None,
) -> Step:
    graph, params, rest = nnx.split(layer, nnx.Param, ...)
    average, trains = case.phase == "inference", case.phase in ("training step", "network")

    def forward(params: Any, rest: Any, x: Any, z: Any) -> tuple[Any, Any]:
        module = nnx.merge(graph, params, rest, copy=True)
        added = masked if z is None else {**masked, "residual": z}
        y = (call or type(module).__call__)(module, x, use_running_average=average, **added)
        return y, nnx.state(module)

    def training_step(params: Any, rest: Any, x: Any, z: Any, dy: Any) -> Any:
        y, pull, state = jax.vjp(lambda p, x, z: forward(p, rest, x, z), params, x, z, has_aux=True)
        return y, pull(dy), state

    compiled = jax.jit(training_step if trains else forward)
    arguments = (params, rest, x, z, dy) if trains else (params, rest, x, z)

    def step(read: bool = False) -> Any:
        results = jax.block_until_ready(compiled(*arguments))
        return _read(results, trains) if read else results

    return step


def _read(results: Any, trains: bool) -> list[np.ndarray]:
    """y, and the gradients of all parameters and x."""
    found = [results[0], *(jax.tree.leaves(results[1]) if trains else [])]
    return [np.asarray(value, np.float32) for value in found]


def _followed(module: Any, x: Any, residual: Any = None, **how: Any) -> Any:
    y = module(x, **how)
    return nnx.relu(y if residual is None else y + residual)


class Network(nnx.Module):
    """Blocks of a convolution, batch normalization and ReLU."""

    def __init__(self, kind: Any, joins: bool, channels: int) -> None:
        rngs = nnx.Rngs(0)
        convolve = [nnx.Conv(channels, channels, (3, 3), use_bias=False, rngs=rngs) for _ in range(BLOCKS)]
        self.convolutions = nnx.List(convolve)
        self.joins, after = joins, {"activation": "relu"} if joins else {}
        self.norms = nnx.List([kind(channels, epsilon=1e-3, rngs=rngs, **after) for _ in range(BLOCKS)])

    def __call__(self, x: Any, use_running_average: bool) -> Any:
        for convolve, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(convolve(x), use_running_average=use_running_average)
            x = x if self.joins else nnx.relu(x)
        return x


def _by_chunks(module: Any, x: Any, **how: Any) -> Any:
    groups = x.shape[0] // GHOST_SIZE
    chunks = [module(x[group::groups], **how) for group in range(groups)]
    return jnp.stack(chunks, axis=1).reshape(x.shape)
