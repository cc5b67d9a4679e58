"""The JAX engine: CPU kernels, and passes in a form that XLA fuses, with the core's gradient in both modes.

`engine` normalizes what it is given, which under a sharded `jit` is the whole batch. `engine_for` also gives the engine
for code that runs once per device and names the mapped axis: inside `shard_map`, `pmap`, or `vmap` with an axis name.
"""

from dataclasses import dataclass, replace
from typing import Any

from jax import lax

from batchnorm._core.engine import Engine
from batchnorm._engines.jax import dispatch, ops
from batchnorm._engines.jax.autodiff import differentiable
from batchnorm._engines.jax.host import host_values
from batchnorm._engines.jax.passes import Fusing
from batchnorm._engines.jax.primitives import Native

__all__ = ["AxisName", "Grouped", "dispatch", "engine", "engine_for", "host_values", "ops"]

engine = Native(ops, differentiable, lambda values: values)


@dataclass(frozen=True)
class Grouped:
    """Groups of indices along a mapped axis, each with statistics of its own, as in `jax.lax.psum`."""

    axis_name: str
    groups: tuple[tuple[int, ...], ...]


AxisName = str | tuple[str, ...] | Grouped


def engine_for(fused: bool | None, axis_name: AxisName | None) -> Engine[Any]:
    """The engine for a call: if it insists on kernels, one that uses them wherever they can be used."""
    if axis_name is None:
        return replace(engine, insists=True) if fused else engine
    return _over(axis_name)


def _over(axis_name: AxisName) -> Fusing[Any]:
    """The engine whose replicas are the members of a mapped axis, of several together, or of groups along one."""

    def sum_over_replicas(values: tuple[Any, ...]) -> tuple[Any, ...]:
        if isinstance(axis_name, Grouped):
            return lax.psum(values, axis_name.axis_name, axis_index_groups=axis_name.groups)
        return lax.psum(values, axis_name)

    return Fusing(ops, differentiable, sum_over_replicas)
