"""Keras 3 on JAX or PyTorch: our layer and the stock one, each as Keras itself would run it in a training."""

from typing import Any

import keras
import numpy as np

from batchnorm.keras.layers import BatchNormalization
from benchmarks.cases import Case
from benchmarks.competitors.data import OURS, Data, Step, historical_options
from benchmarks.competitors.keras_networks import network_steps

__all__ = ["steps"]


def steps(case: Case, data: Data) -> dict[str, Step]:
    if case.phase == "network":
        return network_steps(case, data)
    options: dict[str, Any] = {"axis": case.axis, **historical_options(case)}
    if case.option == "bfloat16":
        options["dtype"] = "mixed_bfloat16"
    layers = {OURS: BatchNormalization(**options)}
    if case.option != "ghost 16":
        layers["Keras 3"] = keras.layers.BatchNormalization(**options)
    masked = {"mask": keras.ops.convert_to_tensor(data.mask)} if case.option == "weighted" else {}
    dtype = "bfloat16" if case.option == "bfloat16" else "float32"
    x, dy = (keras.ops.cast(keras.ops.convert_to_tensor(value), dtype) for value in (data.x, data.dy))
    make = {"jax": _jax_step, "torch": _torch_step}[keras.backend.backend()]
    return {name: make(_built(layer, case), case, x, dy, masked) for name, layer in layers.items()}


def _built(layer: Any, case: Case) -> Any:
    layer.build(case.shape)
    return layer


def _jax_step(layer: Any, case: Case, x: Any, dy: Any, masked: dict[str, Any]) -> Step:
    import jax

    trained = [v.value for v in layer.trainable_variables]
    state = [v.value for v in layer.non_trainable_variables]
    training = case.phase != "inference"

    def forward(trained: Any, x: Any) -> tuple[Any, Any]:
        return layer.stateless_call(trained, state, x, training=training, **masked)

    def training_step(trained: Any, x: Any, dy: Any) -> Any:
        y, pull, after = jax.vjp(forward, trained, x, has_aux=True)
        parameters, dx = pull(dy)
        return [y, dx, *parameters], after

    compiled = jax.jit(
        training_step if case.phase == "training step" else lambda t, x, dy: ([forward(t, x)[0]], 0)
    )

    def step(read: bool = False) -> Any:
        results = jax.block_until_ready(compiled(trained, x, dy))
        return [np.asarray(value, np.float32) for value in results[0]] if read else results

    return step


def _torch_step(layer: Any, case: Case, x: Any, dy: Any, masked: dict[str, Any]) -> Step:
    import torch

    trained = [v.value for v in layer.trainable_variables]
    x = x.detach().requires_grad_(case.phase == "training step")

    def step(read: bool = False) -> Any:
        if case.phase == "inference":
            with torch.no_grad():
                results = [layer(x, training=False)]
        else:
            y = layer(x, training=True, **masked)
            results = [y]
            if case.phase == "training step":
                results += torch.autograd.grad(y, [x, *trained], dy)
        return [value.detach().float().numpy() for value in results] if read else results

    return step
