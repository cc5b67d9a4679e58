"""Which calls with NumPy's arrays the CPU kernels take, and why they do not take the others."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from batchnorm._engines.dispatch import Path
from batchnorm._engines.numpy import ops
from batchnorm._kernels import instructions, load, threads, why_missing
from batchnorm._kernels.axis_groups import WHY_NO_RUNS, kernel_sizes, why_not_weights
from batchnorm.layout import Layout

__all__ = ["at_inference", "find", "plain_step", "running", "slower_reason", "unsupported_reason"]

Array = Any

_TYPES = {"float32": "FLOAT32", "float64": "FLOAT64", "bfloat16": "BFLOAT16", "float16": "FLOAT16"}


class Kernels(NamedTuple):
    """The compiled module, what it calls the dtype, the layout's runs, and whether weights differ between groups."""

    module: Any
    kind: int
    sizes: tuple[int, int, int, int, int]
    by_group: bool


def find(x: Array, weights: Array | None, layout: Layout) -> Kernels | None:
    """The kernels for x, or None if they cannot be used."""
    found = _choose(x, weights, layout)
    return None if isinstance(found, str) else found


def unsupported_reason(
    x: Array, weights: Array | None, layout: Layout, synchronized: bool = False
) -> str | None:
    del synchronized
    found = _choose(x, weights, layout)
    return found if isinstance(found, str) else None


def _choose(x: Array, weights: Array | None, layout: Layout) -> Kernels | str:
    """The kernels for x, or why they cannot be used."""
    module, dtype = load(), ops.dtype(x)
    if module is None:
        return f"they are {why_missing()}"
    name = _name(dtype)
    if name is None:
        return f"they have no {dtype}"
    runs = kernel_sizes(layout)
    if runs is None:
        return WHY_NO_RUNS
    if weights is not None:
        why = why_not_weights(np.shape(weights), layout, runs.by_group)
        if why is not None:
            return why
    return Kernels(module, getattr(module, name), runs.sizes, bool(runs.by_group))


@lru_cache(maxsize=64)
def _name(dtype: np.dtype[Any]) -> str | None:
    """What the kernels call a dtype. NumPy gives other byte orders the same name, but they differ."""
    return _TYPES.get(dtype.name) if dtype.isnative else None


def slower_reason(x: Array) -> str | None:
    del x
    return None


def plain_step(x: Array, layout: Layout) -> Path | None:
    del x, layout
    return None


def at_inference(x: Array, layout: Layout) -> tuple[Path, str | None]:
    why = unsupported_reason(x, None, layout)
    return "native" if why is None else "composed", why


def running() -> tuple[str | None, int]:
    return instructions(), threads()
