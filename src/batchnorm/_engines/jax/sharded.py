"""What the type of an array says of devices: how it is sharded, and over which mapped axes it varies.

Sharding is part of the type on meshes of `AxisType.Explicit`, the default of `jax.make_mesh`. For such arrays each
reshape must say how its result is sharded, and a gradient must be sharded like its array. Inside a step the compiler
decides instead, as under `AxisType.Auto`. y is sharded like x; statistics are replicated, so that they take on the
sharding of the state that they are combined with.

Inside `shard_map`, each value's type keeps the mapped axes over which it varies.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec, auto_axes

from batchnorm._core.engine import Inputs
from batchnorm._engines.jax import private

__all__ = ["as_varying", "sharded_by_compiler", "varying_axes"]

Array = Any
Function = Callable[[Inputs[Array]], Any]


def sharded_by_compiler(function: Function, inputs: Inputs[Array], *, with_statistics: bool) -> Any:
    """The function's result for the inputs: y, or a pair of y and statistics."""
    mesh = _explicit_mesh(inputs)
    if mesh is None:
        return function(inputs)
    y, whole = (NamedSharding(mesh, spec) for spec in (jax.typeof(inputs.x).sharding.spec, PartitionSpec()))
    results = (y, whole) if with_statistics else y
    return auto_axes(function, axes=mesh.explicit_axes, out_sharding=results)(inputs)


def _explicit_mesh(inputs: Inputs[Array]) -> Any:
    """The mesh that the types of the arrays name, if any of its axes is explicit."""
    for array in jax.tree.leaves(inputs):
        mesh = jax.typeof(array).sharding.mesh
        if AxisType.Explicit in mesh.axis_types:
            return mesh
    return None


def varying_axes(value: Any) -> frozenset[str]:
    """The mapped axes over which a value, or an abstract one, differs from device to device."""
    kind = value if isinstance(value, jax.ShapeDtypeStruct) else jax.typeof(value)
    return private.varying_axes(kind)


def as_varying(value: Any, like: Any) -> Any:
    """The value, in the type of one that varies over more axes: reverse mode then sums its gradient over those."""
    added = tuple(sorted(varying_axes(like) - varying_axes(value)))
    return jax.lax.pcast(value, added, to="varying") if added else value
