"""Whether the CPU kernels take a pass over JAX's arrays, and why they do not.

As far as this is known while a program is traced: if it is later mapped, exported or compiled for another device, plain
operations replace the kernels.
"""

from typing import Any

import jax

from batchnorm import _kernels
from batchnorm._engines.dispatch import Path
from batchnorm._engines.jax.primitive import TYPES
from batchnorm._engines.jax.sharded import varying_axes
from batchnorm._kernels.axis_groups import WHY_NO_RUNS, kernel_runs, kernel_sizes, why_not_weights
from batchnorm._kernels.jax import why_missing
from batchnorm.layout import Layout

__all__ = ["at_inference", "plain_step", "running", "slower_reason", "takes_kernels", "unsupported_reason"]

Array = Any
# Smallest input size for which a call that XLA cannot fuse with its neighbors pays off.
LARGE_INPUT = 1_024


def takes_kernels(
    insists: bool, x: Array, weights: Array | None, layout: Layout, *others: Array | None
) -> bool:
    """Whether a pass over x is one of the kernels: if they can be used, and pay off or are insisted on."""
    # Whether they pay off is only known for known sizes.
    return _unsupported(x, weights, layout, *others) is None and (insists or slower_reason(x) is None)


def unsupported_reason(x: Array, weights: Array | None, layout: Layout, synchronized: bool) -> str | None:
    if synchronized:
        return "statistics over a mapped axis are computed in plain operations"
    return _unsupported(x, weights, layout)


def _unsupported(x: Array, weights: Array | None, layout: Layout, *others: Array | None) -> str | None:
    if x.dtype.name not in TYPES:
        return f"the CPU kernels have no {x.dtype.name}"
    if jax.default_backend() != "cpu":
        return f"JAX computes on the {jax.default_backend()}, and the kernels are for the CPU"
    if jax.device_count() > 1:
        return f"JAX may spread arrays over its {jax.device_count()} devices, and the kernels work in the memory of one"
    if any(value is not None and varying_axes(value) for value in (x, weights, *others)):
        return "the computation runs over a mapped axis, device by device"
    sizes = kernel_sizes(layout)
    if sizes is None:
        return WHY_NO_RUNS if kernel_runs(layout) is None else "a size is not known yet"
    odd = None if weights is None else why_not_weights(weights.shape, layout, sizes.by_group)
    if odd is not None:
        return odd
    if x.size == 0:
        return "the input is empty"
    missing = why_missing()
    return None if missing is None else f"they are {missing}"


def slower_reason(x: Array) -> str | None:
    """Why plain operations are faster on x; None if the kernels are."""
    if x.size >= LARGE_INPUT:
        return None
    return f"XLA fuses operations on fewer than {LARGE_INPUT:,} numbers with their neighbors, which is faster"


def plain_step(x: Array, layout: Layout) -> Path | None:
    del x, layout
    return None


def at_inference(x: Array, layout: Layout) -> tuple[Path, str | None]:
    del x, layout
    return "composed", "inference uses plain operations, which XLA fuses with those before and after"


def running() -> tuple[str | None, int | None]:
    # XLA decides how many threads work, and tells only the kernels.
    return _kernels.instructions(), None
