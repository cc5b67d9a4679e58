"""The public function on every framework: arrays in, one training step and its gradients, NumPy arrays out."""

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import ml_dtypes  # noqa: F401  # NumPy learns bfloat16 from it
import numpy as np

import batchnorm
from batchnorm.options import Options
from properties.cases import Array, Batch, Step

MODULES = {"numpy": "numpy", "tensorflow": "tensorflow", "torch": "torch", "jax": "jax"}
INSTALLED = [name for name, module in MODULES.items() if importlib.util.find_spec(module)]
NAMES = {"dgamma": "gamma", "dbeta": "beta"}


def train_step(name: str, options: Options, batch: Batch, state: Mapping[str, Array]) -> Step:
    """One call of `batchnorm.batch_norm` on arrays of the framework of this name."""
    steps = {"numpy": _numpy, "tensorflow": _tensorflow, "torch": _torch, "jax": _jax}
    return steps[name](options, batch, state)


def infer(name: str, options: Options, batch: Batch, state: Mapping[str, Array]) -> Array:
    """y at inference, as a NumPy array."""
    with_arrays = {"numpy": lambda f: f(np.asarray), "tensorflow": _eager, "torch": _on_torch, "jax": _on_jax}

    def run(array: Any) -> Any:
        sources = {k: array(v) for k, v in batch.given.items()}
        held = {k: array(v) for k, v in state.items()}
        given = sources["dx"], parameters_of(sources), held, options
        y, after = batchnorm.batch_norm(*given, training=False, residual=sources.get("dresidual"))
        assert all(after[slot] is held[slot] for slot in held)
        return y

    return np.asarray(with_arrays[name](run))


def parameters_of(sources: Mapping[str, Any]) -> dict[str, Any]:
    return {short: sources[long] for long, short in NAMES.items() if long in sources}


def _call(options: Options, sources: Mapping[str, Any], state: Mapping[str, Any], **more: Any) -> Any:
    pair = None
    if "dscale_adjustment" in sources:
        pair = sources["dscale_adjustment"], sources["dbias_adjustment"]
    weights = sources.get("dweights")
    if batchnorm.explain(sources["dx"], options, weights=weights).path == "refused":
        options = replace(options, fused=None)
    return batchnorm.batch_norm(
        sources["dx"],
        parameters_of(sources),
        state,
        options,
        training=True,
        weights=weights,
        adjustment=pair,
        residual=sources.get("dresidual"),
        **more,
    )


def _numpy(options: Options, batch: Batch, state: Mapping[str, Array]) -> Step:
    with np.errstate(divide="ignore", invalid="ignore"):
        if batch.adjustment is not None:
            return Step(*_call(options, batch.given, state), {})
        y, after, pullback = _call(options, batch.given, state, with_pullback=True)
        found = pullback(batch.dy)._asdict()
    return Step(y, after, {f"d{name}": value for name, value in found.items() if value is not None})


def _tensorflow(options: Options, batch: Batch, state: Mapping[str, Array]) -> Step:
    import tensorflow as tf

    sources = {name: tf.constant(value) for name, value in batch.given.items()}
    with tf.GradientTape() as tape:
        tape.watch(sources)
        y, after = _call(options, sources, {k: tf.constant(v) for k, v in state.items()})
    gradients = tape.gradient(y, sources, tf.constant(batch.dy))
    return Step(
        y.numpy(), {k: v.numpy() for k, v in after.items()}, {k: v.numpy() for k, v in gradients.items()}
    )


def _torch(options: Options, batch: Batch, state: Mapping[str, Array]) -> Step:
    import torch

    sources = {name: torch.tensor(value, requires_grad=True) for name, value in batch.given.items()}
    y, after = _call(options, sources, {k: torch.tensor(v) for k, v in state.items()})
    gradients = torch.autograd.grad(y, list(sources.values()), torch.tensor(batch.dy))
    return Step(
        y.detach().numpy(),
        {k: v.numpy() for k, v in after.items()},
        {k: v.numpy() for k, v in zip(sources, gradients, strict=True)},
    )


def _jax(options: Options, batch: Batch, state: Mapping[str, Array]) -> Step:
    import jax

    with jax.enable_x64(True):
        arrays = jax.tree.map(jax.numpy.asarray, (dict(batch.given), batch.dy, dict(state)))
        return Step(*jax.tree.map(np.asarray, _compiled(options)(*arrays)))


@lru_cache(maxsize=4)
def _compiled(options: Options) -> Any:
    """Compiled once for all steps of a case; operation by operation it takes longer than all other frameworks."""
    import jax

    def step(sources: Any, dy: Any, state: Any) -> Any:
        y, pull, after = jax.vjp(lambda given: _call(options, given, state), sources, has_aux=True)
        return y, after, *pull(dy)

    return jax.jit(step)


def _eager(run: Any) -> Any:
    import tensorflow as tf

    return run(tf.constant).numpy()


def _on_torch(run: Any) -> Any:
    import torch

    return run(torch.tensor).numpy()


def _on_jax(run: Any) -> Any:
    import jax

    with jax.enable_x64(True):
        return run(jax.numpy.asarray)
