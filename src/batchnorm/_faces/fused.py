"""Which layers could use Keras 2's fused kernel, whatever the rank of their inputs."""

from typing import Any

from batchnorm._faces.axes import axes_of
from batchnorm.errors import format_error

__all__ = ["fused_hindrances", "refuse_fused"]

# The values of `axis` that it allows, as the layer was given them.
AXES = (-4, -3, -1, 1, 3, 4)
# The dtypes in which it computes; None if the first input decides.
DTYPES = (None, "float16", "bfloat16", "float32")


def fused_hindrances(layer: Any) -> list[str]:
    """Which options of a Keras or v1 layer, as they are now, rule the kernel out."""
    axes = axes_of(layer.axis)
    hindrances = {
        "renorm": layer.renorm,
        "virtual_batch_size": layer.virtual_batch_size is not None,
        "an adjustment": layer.adjustment is not None,
        "synchronized=True": layer.synchronized,
        f"axis={layer.axis!r}": len(axes) > 1 or not set(axes) <= set(AXES),
        f"computing in {layer.compute_dtype}": layer.compute_dtype not in DTYPES,
    }
    return [name for name, hinders in hindrances.items() if hinders]


def refuse_fused(layer: Any) -> None:
    """Raise ValueError if an option rules the kernel out."""
    found = fused_hindrances(layer)
    if found:
        raise ValueError(
            format_error(
                f"fused=True was asked for together with {' and '.join(found)}",
                "The fused kernel runs only when axis is 1 or 3 (of rank 5: 1 or 4), without options like "
                "these, and in at most 32 bits",
                "Leave `fused` at None, which takes the fastest way there is",
            )
        )
