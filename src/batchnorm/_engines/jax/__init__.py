"""The JAX engine: CPU kernels, and passes in a form that XLA fuses, with the core's gradient in both modes.

`engine` normalizes what it is given, which under a sharded `jit` is the whole batch. `over` gives the engine for
code that runs once per device and names the mapped axis: inside `shard_map`, `pmap`, or `vmap` with an axis name.
"""

from dataclasses import dataclass, replace
from typing import Any

from jax import lax

from batchnorm._engines.jax import ops
from batchnorm._engines.jax.differentiable import differentiable
from batchnorm._engines.jax.native import Native
from batchnorm._engines.jax.passes import Fusing

__all__ = ["AxisName", "Grouped", "engine", "insisting", "ops", "over"]

engine: Native = Native(ops, differentiable, lambda values: values)
# What `fused=True` asks for: the kernels wherever they can be used.
insisting = replace(engine, insists=True)


@dataclass(frozen=True)
class Grouped:
    """Groups of indices along a mapped axis, each with statistics of its own, as in `jax.lax.psum`."""

    axis_name: str
    groups: tuple[tuple[int, ...], ...]


AxisName = str | tuple[str, ...] | Grouped


def over(axis_name: AxisName) -> Fusing[Any]:
    """The engine whose replicas are the members of a mapped axis, of several together, or of groups along one."""

    def sum_over_replicas(values: tuple[Any, ...]) -> tuple[Any, ...]:
        if isinstance(axis_name, Grouped):
            return lax.psum(values, axis_name.axis_name, axis_index_groups=axis_name.groups)
        return lax.psum(values, axis_name)

    return Fusing(ops, differentiable, sum_over_replicas)
