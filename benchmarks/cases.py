"""What is measured: shapes, options, and how many bytes each has to move."""

from dataclasses import dataclass
from math import prod
from typing import Literal

__all__ = [
    "BLOCKS",
    "CASES",
    "CLASSES",
    "GHOST_SIZE",
    "NETWORKS",
    "OPTIONS",
    "SHAPES",
    "Case",
    "Phase",
    "least_bytes",
]

Option = Literal["plain", "renorm", "ghost 16", "weighted", "bfloat16", "relu", "residual, relu"]
Phase = Literal["training step", "forward", "inference", "network"]

GHOST_SIZE = 16
BLOCKS = 3
CLASSES = 10

# Name, shape, channel axis.
SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    "32x56x56x64": ((32, 56, 56, 64), -1),
    "128x56x56x64": ((128, 56, 56, 64), -1),
    "64x7x7x512": ((64, 7, 7, 512), -1),
    "32x14x14x256": ((32, 14, 14, 256), -1),
    "8192x1024": ((8192, 1024), -1),
    "128x1024": ((128, 1024), -1),
    "256x32": ((256, 32), -1),
    "32x64x56x56": ((32, 64, 56, 56), 1),
    "128x64x56x56": ((128, 64, 56, 56), 1),
    "64x512x7x7": ((64, 512, 7, 7), 1),
    "32x256x14x14": ((32, 256, 14, 14), 1),
    "16x32x32x48": ((16, 32, 32, 48), -1),
    "32x96x96x3": ((32, 96, 96, 3), -1),
    "32x3x96x96": ((32, 3, 96, 96), 1),
    "8x16": ((8, 16), -1),
    "256x64": ((256, 64), -1),
}
OPTIONS: tuple[Option, ...] = (
    "plain",
    "renorm",
    "ghost 16",
    "weighted",
    "bfloat16",
    "relu",
    "residual, relu",
)
# What follows the normalization is measured on a few shapes.
FOLLOWING: tuple[Option, ...] = ("relu", "residual, relu")
FOLLOWED = ("32x56x56x64", "64x7x7x512", "32x64x56x56", "64x512x7x7")
# Forward and inference add little to what training steps tell, so they are measured on a few shapes.
SHORT = ("32x56x56x64", "8192x1024", "32x64x56x56", "256x32")
# For each network, the input shapes and the frameworks it is trained in; the shape of the blocks is that of all layers.
NETWORKS: dict[str, dict[str, tuple[str, ...]]] = {
    "blocks": {"16x32x32x48": ("JAX",)},
    "ResNet-18": {"32x3x96x96": ("PyTorch",), "32x96x96x3": ("PyTorch",)},
    "MobileNetV2": {"32x3x96x96": ("PyTorch",), "32x96x96x3": ("PyTorch", "TensorFlow", "Keras on JAX")},
    "slim's ResNet": {"32x96x96x3": ("TensorFlow",)},
    "slim's perceptron": {"8x16": ("TensorFlow",), "256x64": ("TensorFlow",)},
}
OF_NETWORKS = {shape_name for shapes in NETWORKS.values() for shape_name in shapes}


@dataclass(frozen=True)
class Case:
    """One row: a training step is forward, backward and the moving update; forward is the same without backward.

    A network row is a training step of one of `NETWORKS`, including the optimizer's: it shows how much normalization
    matters to the whole, and whether our threads and the framework's own get in each other's way.
    """

    shape_name: str
    option: Option
    phase: Phase
    network: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return SHAPES[self.shape_name][0]

    @property
    def axis(self) -> int:
        return SHAPES[self.shape_name][1]

    def runs_in(self, framework: str) -> bool:
        """Whether the framework's competitors have it."""
        if self.activates:
            # Keras' layer is measured on TensorFlow.
            return not framework.startswith("Keras on")
        return self.phase != "network" or framework in NETWORKS[self.network][self.shape_name]

    @property
    def activates(self) -> bool:
        """Whether a ReLU follows, in the same pass for ours."""
        return self.option in FOLLOWING

    @property
    def adds(self) -> bool:
        """Whether a residual is added before the ReLU."""
        return self.option == "residual, relu"

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """A mask has no last axis in Keras; where the channels are not last, it is the same for all of them."""
        return tuple(1 if axis == self.axis else size for axis, size in enumerate(self.shape[:-1]))


def least_bytes(case: Case) -> int | None:
    """The bytes that cross the memory bus if every pass is perfect and no array fits the cache; None for networks.

    Channels last, each statistic needs all rows before the first output: the forward pass reads x twice and writes
    y, the backward pass reads x and dy twice and writes dx. Channels first, the numbers of one channel could stay
    in the cache in between, so each array counts once. Inference reads x and writes y. A ReLU costs nothing: the
    backward pass computes its mask from x. A residual is read once in each direction, and its gradient written.
    """
    if case.phase == "network":
        return None
    first = case.axis == 1
    passes = {"inference": 2, "forward": 2 if first else 3, "training step": 5 if first else 8}
    added = {"inference": 1, "forward": 1, "training step": 3}[case.phase] if case.adds else 0
    return (2 if case.option == "bfloat16" else 4) * prod(case.shape) * (passes[case.phase] + added)


CASES = (
    *(
        Case(name, option, "training step")
        for name in SHAPES
        if name not in OF_NETWORKS
        for option in OPTIONS
        if option not in FOLLOWING or name in FOLLOWED
    ),
    *(Case(name, "plain", phase) for name in SHORT for phase in ("forward", "inference")),
    *(Case(shape, "plain", "network", name) for name, shapes in NETWORKS.items() for shape in shapes),
)
