"""What the attributes of our ops say: the layout, epsilon and the activation, as numbers that a graph can hold."""

import struct
from collections.abc import Sequence
from typing import Any

from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.dispatch import GHOST_ORDERS
from batchnorm.activation import ACTIVATIONS, Activation
from batchnorm.layout import Layout, plan_layout
from batchnorm.options import Ghost

__all__ = ["activation_attributes", "activation_by", "from_bits", "layout_of", "to_bits"]

Tensor = Any

# `bn_activation` in csrc/include/batchnorm_kernels.h has the same order. Saved graphs hold these numbers.
NUMBERS = {name: number for number, name in enumerate(ACTIVATIONS)}


def layout_of(x: Tensor, bounds: Sequence[int], ghost_order: int, ghost_size: int, **_: Any) -> Layout:
    """The layout that an op's attributes describe, for its x."""
    kept = [*range(bounds[1], bounds[2]), *range(bounds[3], bounds[4])]
    if not ghost_size:
        return plan_layout(ops.shape(x), kept)
    order = GHOST_ORDERS[ghost_order]
    kept.remove(1 if order == "interleaved" else 0)
    return plan_layout(ops.shape(x), [axis - 1 for axis in kept], Ghost(ghost_size, order))


def activation_attributes(activation: Activation | None) -> dict[str, int]:
    """The attributes that say an activation; none, which stand for the identity, without one."""
    if activation is None:
        return {}
    return {"activation": NUMBERS[activation.name], "slope_bits": to_bits(activation.slope or 0.0)}


def activation_by(activation: int, slope_bits: int) -> Activation | None:
    """The activation that these attributes say, or None."""
    name = ACTIVATIONS[activation]
    return None if name == "identity" else Activation(name, from_bits(slope_bits))


def to_bits(number: float) -> int:
    """A double as the integer of the same bits."""
    return struct.unpack("q", struct.pack("d", number))[0]


def from_bits(bits: int) -> float:
    """The double with these bits."""
    return struct.unpack("d", struct.pack("q", bits))[0]
