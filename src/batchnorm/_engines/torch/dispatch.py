"""Which route a call on PyTorch's tensors takes, and why it is not a faster one.

Three things compute: PyTorch's own kernel, ours, and plain operations. A plain step has two short forms beside the
core, which save the time of some forty operations on small tensors: one call of `torch.batch_norm`, or of our kernel.
Compilers that trace Python can read this file.
"""

from typing import Any, Literal

import torch
from torch.fx.experimental.symbolic_shapes import has_static_value, statically_known_true

from batchnorm import _kernels
from batchnorm._engines.dispatch import Path
from batchnorm._engines.torch import aten, cpu_kernels
from batchnorm._engines.torch.ops import NARROW
from batchnorm._engines.torch.tracing import EXACT_TYPES, in_compiled_step, is_recorded
from batchnorm.layout import Layout, product

__all__ = [
    "at_inference",
    "plain_step",
    "prefers_custom_op",
    "prefers_native",
    "route_of_layer",
    "running",
    "slower_reason",
    "unsupported_reason",
]

Tensor = torch.Tensor

# Asked while nothing is being traced: compilers warn of caches.
INSTRUCTIONS = _kernels.instructions()
AVAILABLE = _kernels.available()

# Smallest input sizes for which our kernels pay off, although calling them from Python costs more: in general, and in
# training for channels that are last in memory, for which PyTorch's kernel is faster.
LARGE_INPUT = 196_608
LARGE_LAST = 1_048_576
# The same in a compiled program, whose compiler cannot fuse our operation with its neighbors, and the number of
# examples assumed for a batch of unknown size.
LARGE_COMPILED = 262_144
USUAL_BATCH = 64


def route_of_layer(
    x: Tensor, plain: bool, fusible: bool, averages: bool, traced: bool, epilogue: bool
) -> Literal["operation", "kernel", "core"]:
    """How a layer trains: by one call of PyTorch's operation, by one of our kernel, or by the core on any engine.

    Args:
        x: the input, without weights.
        plain: whether the layer has no option but those of `torch.nn`.
        fusible: whether a kernel that writes the averages too does all it asks for.
        averages: whether its averages decay; those with `momentum=None` are cumulative.
        traced: whether the program is being traced or transformed.
        epilogue: whether an activation or a residual follows.
    """
    # What a kernel writes into the statistics of a subclass, such as DTensor, may be lost.
    exact = type(x) in EXACT_TYPES or (traced and torch.compiler.is_exporting())
    if not exact or x.numel() == 0:
        return "core"
    if plain and (averages or not traced):
        if epilogue and x.dtype in NARROW:
            # PyTorch's operation would round to 16 bits before the activation.
            return "kernel" if averages and fusible and not traced else "core"
        if traced:
            # Compilers join it with its neighbors, which is quicker than our operation between them.
            return "operation"
        return "kernel" if averages and prefers_native(x, epilogue) else "operation"
    return "kernel" if fusible and averages and not traced else "core"


def prefers_native(x: Tensor, epilogue: bool) -> bool:
    """Whether a plain training step on x is quicker by the CPU kernels than in one call of PyTorch's.

    Not asked while a compiler traces: sizes are symbols then, which are not to be compared.
    """
    size = x.numel()
    if size < LARGE_INPUT:
        return False
    first = epilogue or (x.dim() > 2 and x.is_contiguous())
    return (first or size >= LARGE_LAST) and x.is_cpu and AVAILABLE


def prefers_custom_op(x: Tensor) -> bool:
    """Whether x is being compiled, and a plain training step on it is quicker by our kernels than by fused loops.

    Sizes that the compiler does not know are not asked for: it would recompile for each answer.
    """
    return (
        AVAILABLE
        and in_compiled_step()
        and type(x) in EXACT_TYPES
        and x.device.type == "cpu"
        and x.dtype in aten.FLOATS
        and not statically_known_true(_size(x) < LARGE_COMPILED)
    )


def _size(x: Tensor) -> Any:
    """Numbers in x, or in a batch of the usual size if x's is unknown; a symbol if other sizes are unknown too."""
    size = x.numel()
    return size if has_static_value(size) else product(x.shape[1:]) * USUAL_BATCH


def unsupported_reason(x: Tensor, weights: Tensor | None, layout: Layout, synchronized: bool) -> str | None:
    del synchronized
    return cpu_kernels.why_not(layout, x, weights)


def slower_reason(x: Tensor) -> str | None:
    del x
    return None


def plain_step(x: Tensor, layout: Layout) -> Path | None:
    """One operation of ours in a compiled program, or PyTorch's own kernel."""
    if prefers_custom_op(x):
        # It uses plain operations if the kernels cannot be used.
        return "native" if layout.permutation is None else None
    return "framework" if aten.fits(x, layout) else None


def at_inference(x: Tensor, layout: Layout) -> tuple[Path, str | None]:
    if cpu_kernels.prefers_operation(x) and aten.infers(x, aten.plan_block(layout)):
        return "framework", "PyTorch has an operation for inference, which exporters know"
    why = "a gradient is recorded" if is_recorded(x) else cpu_kernels.why_not(layout, x)
    return "native" if why is None else "composed", why


def running() -> tuple[str | None, int | None]:
    return INSTRUCTIONS, None if torch.compiler.is_compiling() else torch.get_num_threads()
