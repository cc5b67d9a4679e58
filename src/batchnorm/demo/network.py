"""The demo's network, as a description and initial weights that every API starts from.

Four convolutions, each without an offset and followed by a normalization and an ELU, then a dense layer. ELU rather
than ReLU because its slope has no jump: a rounding error beside ReLU's zero turns a whole gradient on or off, and the
difference between two trainings is then no longer rounding.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CLASSES",
    "CONVOLUTIONS",
    "DECAY",
    "EPSILON",
    "GHOST_SIZE",
    "LEARNING_RATE",
    "Build",
    "Network",
    "Networks",
    "Weights",
    "initial_weights",
    "norm_name",
]

CLASSES = 10
DECAY = 0.98
EPSILON = 1e-3
LEARNING_RATE = 0.1
GHOST_SIZE = 12

Weights = Mapping[str, NDArray[Any]]


class Convolution(NamedTuple):
    """A square kernel's side, the channels it makes, its stride and the padding."""

    side: int
    channels: int
    stride: int
    padding: Literal["SAME", "VALID"]


CONVOLUTIONS = {
    "conv_1": Convolution(3, 16, 1, "SAME"),
    "conv_2": Convolution(3, 32, 2, "SAME"),
    "conv_3": Convolution(3, 32, 2, "SAME"),
    "conv_4": Convolution(2, 32, 1, "VALID"),
}


class Network(Protocol):
    """The network built through one API.

    train: one step of gradient descent; the batch's loss before it. `given` may hold the learning "rate", and renorm's
        bounds "rmin", "rmax" and "dmax".
    logits: by the batch's statistics in training, else by the moving ones, none of which move.
    statistics: the moving averages, as "norm_1/moving_mean" and so on.
    """

    def train(self, images: NDArray[Any], labels: NDArray[Any], given: Mapping[str, float]) -> float: ...

    def logits(self, images: NDArray[Any], training: bool) -> NDArray[Any]: ...

    def statistics(self) -> dict[str, NDArray[Any]]: ...


Build = Callable[[Weights], Network]


class Networks(Protocol):
    """What the module of an engine has: the network through each API, and with each method of part 2."""

    @property
    def APIS(self) -> Mapping[str, Build]: ...  # noqa: N802

    @property
    def METHODS(self) -> Mapping[str, Build]: ...  # noqa: N802


def initial_weights(seed: int) -> dict[str, NDArray[np.float32]]:
    """Kernels of He et al. 2015 for the convolutions, then the dense layer's kernel and offset."""
    generator = np.random.default_rng(seed)
    weights: dict[str, NDArray[np.float32]] = {}
    inputs = 1
    for name, (side, channels, _, _) in CONVOLUTIONS.items():
        weights[name] = _spread(generator, (side, side, inputs, channels))
        inputs = channels
    return weights | {
        "dense/kernel": _spread(generator, (inputs, CLASSES)),
        "dense/offset": np.zeros(CLASSES, np.float32),
    }


def norm_name(convolution: str) -> str:
    """The name of the normalization after a convolution."""
    return convolution.replace("conv", "norm")


def _spread(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    deviation = np.sqrt(2.0 / np.prod(shape[:-1]))
    return (generator.standard_normal(shape) * deviation).astype(np.float32)
