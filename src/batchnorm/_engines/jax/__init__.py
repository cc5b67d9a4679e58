"""The JAX engine: the composed passes in a form that XLA fuses, with the core's gradient in every direction.

`engine` normalizes what it is given, which under a sharded `jit` is the whole batch. `over` gives the engine for
code that runs once per device and names the mapped axis: inside `shard_map`, `pmap`, or `vmap` with an axis name.
"""

from typing import Any

from jax import lax

from batchnorm._engines.jax import ops
from batchnorm._engines.jax.differentiable import differentiable
from batchnorm._engines.jax.passes import Fusing

__all__ = ["AxisName", "engine", "over"]

AxisName = str | tuple[str, ...]

engine: Fusing[Any] = Fusing(ops, differentiable, lambda values: values)


def over(axis_name: AxisName, groups: Any = None) -> Fusing[Any]:
    """The engine whose replicas are the members of a mapped axis, or of several.

    Args:
        axis_name: the axis, or a tuple of axes, of the mapping around the call.
        groups: lists of indices along the axis, each of which keeps statistics of its own, as
            `jax.lax.psum(axis_index_groups=...)` takes them; None for all of it.
    """

    def sum_over_replicas(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return lax.psum(values, axis_name, axis_index_groups=groups)

    return Fusing(ops, differentiable, sum_over_replicas)
