"""What runs when `batch_norm` is called, found by watching the kernels themselves; beside it, what `explain` says."""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

import batchnorm
from batchnorm import Explanation, Options

INSTALLED = [name for name in ("numpy", "torch", "tensorflow") if importlib.util.find_spec(name)]
# The modules whose `load` gives the kernels.
LOADERS = {
    "numpy": "batchnorm._engines.numpy.dispatch",
    "torch": "batchnorm._engines.torch.cpu_kernels",
    "tensorflow": "batchnorm._engines.tensorflow.dispatch",
}
# Our functions that call the frameworks' own kernels, or return None. (TensorFlow's kernel serves plain operations too,
# as a product and a sum; and what belongs to PyTorch is left alone, because its compiler knows functions by identity.)
OWN = {
    "numpy": (),
    "torch": (
        ("batchnorm._engines.torch.aten", "fused_train"),
        ("batchnorm._engines.torch.aten", "fused_infer"),
    ),
    "tensorflow": (("batchnorm._engines.tensorflow.inference", "fused_normalize"),),
}


class Watch:
    """Notes each function of a module that is called."""

    def __init__(self, module: Any, found: list[str]) -> None:
        self.module, self.found = module, found

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.module, name)
        if not callable(value):
            return value

        def call(*arguments: Any, **named: Any) -> Any:
            self.found.append(name.removeprefix("batchnorm_kernels_"))
            return value(*arguments, **named)

        return call


class Watched:
    """The kernels of ours, and the framework's own, that were called since the last look."""

    def __init__(self, framework: str, monkeypatch: Any) -> None:
        self.ours: list[str] = []
        self.own: list[str] = []
        module = importlib.import_module(LOADERS[framework])
        kernels = module.load()
        if kernels is not None:
            monkeypatch.setattr(module, "load", lambda: Watch(kernels, self.ours))
        for place, name in OWN[framework]:
            owner = importlib.import_module(place)
            monkeypatch.setattr(owner, name, self.noting(name, getattr(owner, name)))

    def noting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            result = function(*arguments, **named)
            if result is not None:
                self.own.append(name)
            return result

        return call

    def path(self, *, training: bool = True) -> str:
        """What `Explanation.path` ought to have said of a call."""
        ours, own = set(self.ours), set(self.own)
        self.ours.clear()
        self.own.clear()
        if ours and own:
            return f"both {ours} and {own}"
        if ours:
            return "mixed" if training and ours == {"apply"} else "native"
        return "framework" if own else "composed"


def array(framework: str, shape: tuple[int, ...], dtype: str = "float32") -> Any:
    values = np.random.default_rng(0).uniform(0.5, 2.0, shape)
    x = values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    if framework == "torch":
        import torch

        return torch.from_numpy(values).to(getattr(torch, dtype))
    if framework == "tensorflow":
        import tensorflow as tf

        return tf.constant(x)
    return x


def run(x: Any, options: Options, weights: Any = None, *, training: bool = True, start: Any = None) -> Any:
    """y of `batch_norm`, from the parameters and the state that it starts from."""
    params, state = start or batchnorm.init(options, x.shape, like=x)
    y, _ = batchnorm.batch_norm(x, params, state, options, training=training, weights=weights)
    return y


def explained(x: Any, options: Options, weights: Any = None, *, training: bool = True) -> Explanation:
    return batchnorm.explain(x, options, weights=weights, training=training)
