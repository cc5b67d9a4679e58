"""Over which mapped axes a value varies, which `shard_map` keeps as part of each value's type."""

from typing import Any

import jax

from batchnorm._engines.jax import private

__all__ = ["as_varying", "varying_axes"]


def varying_axes(value: Any) -> frozenset[str]:
    """The mapped axes over which a value, or an abstract one, differs from device to device."""
    kind = value if isinstance(value, jax.ShapeDtypeStruct) else jax.typeof(value)
    return private.varying_axes(kind)


def as_varying(value: Any, like: Any) -> Any:
    """The value, in the type of one that varies over more axes: reverse mode then sums its gradient over those."""
    added = tuple(sorted(varying_axes(like) - varying_axes(value)))
    return jax.lax.pcast(value, added, to="varying") if added else value
