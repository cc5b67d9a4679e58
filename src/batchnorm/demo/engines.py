"""The frameworks that the demo can run on: what each needs, and where its networks are. Imports none of them."""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from batchnorm.demo.network import Networks

__all__ = ["ENGINES", "Engine"]

# What every engine needs, and the names under which pip knows it.
TOOLS = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "rich": "rich"}


class Engine(NamedTuple):
    """One choice of `--engine`.

    Attributes:
        title: what the framework calls itself.
        module: of this package, with the networks.
        modules: what is imported, and the names under which pip knows it.
        extras: that install all of it.
        settings: of the environment, before the framework is imported.
    """

    title: str
    module: str
    modules: Mapping[str, str]
    extras: str
    settings: Mapping[str, str] = {}

    @property
    def needs(self) -> dict[str, str]:
        """What is imported, the tools of every engine among it, and the names under which pip knows it."""
        return {**self.modules, **TOOLS}

    @property
    def environment(self) -> dict[str, str]:
        """The demo runs on the CPU, whatever other devices this machine has and whatever Keras is set to."""
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
        return {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu", **quiet, **self.settings}

    def load(self) -> Networks:
        """Import the framework, and with it the networks."""
        module: Any = importlib.import_module(f"batchnorm.demo.{self.module}")
        return module


TENSORFLOW = {"tensorflow": "tensorflow-cpu"}
KERAS = {"keras": "keras"}
# Synchronizing PyTorch's threads takes longer than the work on 48 small images.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}

ENGINES = {
    "tensorflow": Engine(
        "TensorFlow", "tensorflow_network", TENSORFLOW | KERAS, "demo", {"KERAS_BACKEND": "tensorflow"}
    ),
    "torch": Engine("PyTorch", "torch_network", {"torch": "torch"}, "torch,demo", ONE_THREAD),
    "jax": Engine("JAX with Flax", "flax_network", {"jax": "jax", "flax": "flax"}, "flax,demo"),
    "keras-tensorflow": Engine(
        "Keras on TensorFlow", "keras_network", KERAS | TENSORFLOW, "demo", {"KERAS_BACKEND": "tensorflow"}
    ),
    "keras-jax": Engine(
        "Keras on JAX", "keras_network", KERAS | {"jax": "jax"}, "jax,demo", {"KERAS_BACKEND": "jax"}
    ),
    "keras-torch": Engine(
        "Keras on PyTorch",
        "keras_network",
        KERAS | {"torch": "torch"},
        "torch,demo",
        {"KERAS_BACKEND": "torch"} | ONE_THREAD,
    ),
}
