"""What is measured: shapes, options, and how many bytes each has to move."""

from dataclasses import dataclass
from math import prod
from typing import Literal

__all__ = ["CASES", "SHAPES", "Case", "Phase", "least_bytes"]

Option = Literal["plain", "renorm", "ghost 16", "weighted"]
Phase = Literal["training step", "forward", "inference"]

GHOST_SIZE = 16

# Name, shape, channel axis.
SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    "32x56x56x64": ((32, 56, 56, 64), -1),
    "64x7x7x512": ((64, 7, 7, 512), -1),
    "8192x1024": ((8192, 1024), -1),
    "32x64x56x56": ((32, 64, 56, 56), 1),
}


@dataclass(frozen=True)
class Case:
    """One row: a training step is forward and backward and the moving update, forward the same without backward."""

    shape_name: str
    option: Option
    phase: Phase

    @property
    def shape(self) -> tuple[int, ...]:
        return SHAPES[self.shape_name][0]

    @property
    def axis(self) -> int:
        return SHAPES[self.shape_name][1]

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """A mask has no last axis in Keras; where the channels are not last, it is the same for all of them."""
        return tuple(1 if axis == self.axis else size for axis, size in enumerate(self.shape[:-1]))


def least_bytes(case: Case) -> int:
    """The float32 bytes that cross the memory bus if every pass is perfect and no array fits the cache.

    Channels last, each statistic needs all rows before the first output: the forward pass reads x twice and writes
    y, the backward pass reads x and dy twice and writes dx. Channels first, the numbers of one channel could stay
    in the cache in between, so each array counts once. Inference reads x and writes y.
    """
    first = case.axis == 1
    passes = {"inference": 2, "forward": 2 if first else 3, "training step": 5 if first else 8}
    return 4 * prod(case.shape) * passes[case.phase]


CASES = tuple(
    Case(name, option, phase)
    for name in SHAPES
    for phase in ("training step", "forward", "inference")
    for option in ("plain", "renorm", "ghost 16", "weighted")
    # At inference the options have no part.
    if phase != "inference" or option == "plain"
)
