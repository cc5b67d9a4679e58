"""PyTorch's names that are not public. Each is used here alone, with what depends on it.

A release that renames one raises AttributeError on first use; `tests/unit/test_private.py` calls them all.
"""

from typing import Any

import torch
from torch.autograd import forward_ad

__all__ = [
    "BatchNorm",
    "buffers_of",
    "children_of",
    "fuser_methods",
    "has_storage",
    "in_compiled_checkpoint",
    "in_forward_mode",
    "in_transform",
    "is_hooked",
    "is_mapped",
    "is_recording_trace",
    "is_view",
    "is_watched",
    "is_zero_tensor",
    "unsafe_view",
    "version_of",
]

Tensor = torch.Tensor

# What torch.nn's batch norms and SyncBatchNorm have in common, and programs ask for.
BatchNorm = torch.nn.modules.batchnorm._BatchNorm  # pyright: ignore[reportPrivateUsage]


def in_transform() -> bool:
    """Whether one of `torch.func`'s transforms is at work, which would not see what is computed by address."""
    return torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]


@torch.compiler.assume_constant_result
def in_compiled_checkpoint() -> bool:
    """Whether `torch.compile` is reading a function that `torch.utils.checkpoint` will run again.

    Its partitioner then computes everything inside a second time, even what it cannot recompute elsewhere.
    """
    from torch._dynamo.symbolic_convert import InstructionTranslator

    tracer: Any = InstructionTranslator.current_tx().output.current_tracer
    while tracer is not None:
        if "checkpoint" in str(tracer.source_target):
            return True
        tracer = tracer.parent
    return False


def in_forward_mode() -> bool:
    """Whether derivatives are computed in forward mode, which our kernels have none of."""
    return forward_ad._current_level >= 0  # pyright: ignore[reportPrivateUsage]


def is_recording_trace() -> bool:
    """Whether `torch.jit.trace` records; the public question costs a call of Python's more in each step."""
    return torch._C._is_tracing()  # pyright: ignore[reportPrivateUsage]


def is_watched() -> bool:
    """Whether a mode sees each operation: tracers, counters of operations, fake tensors."""
    return torch._C._len_torch_dispatch_stack() > 0  # pyright: ignore[reportPrivateUsage]


def has_storage(value: Tensor) -> bool:
    """Whether the tensor's numbers are in memory at all, so that it has an address."""
    return torch._C._has_storage(value)  # pyright: ignore


def is_zero_tensor(value: Tensor) -> bool:
    """Whether the tensor stands for zeros without holding any."""
    return value._is_zerotensor()  # pyright: ignore[reportPrivateUsage]


def is_view(value: Tensor) -> bool:
    """Whether in-place operations on the tensor are recorded for a base tensor as well."""
    return value._is_view()  # pyright: ignore[reportPrivateUsage]


def unsafe_view(value: Tensor, shape: Any) -> Tensor:
    """The same memory in another shape, not recorded as a view: right if nothing else refers to `value`."""
    return torch.ops.aten._unsafe_view.default(value, shape)


def is_mapped(value: Any) -> bool:
    """Whether `torch.func.vmap` maps over the tensor, so that a layer's statistics would be written once for each."""
    functorch = torch._C._functorch  # pyright: ignore
    while value is not None and functorch.is_functorch_wrapped_tensor(value):
        if functorch.is_batchedtensor(value):
            return True
        value = functorch.get_unwrapped(value)
    return False


def buffers_of(module: torch.nn.Module) -> dict[str, Any]:
    """The module's own buffers by name, including those that a program has set to None."""
    return module._buffers  # pyright: ignore[reportPrivateUsage]


def is_hooked(module: torch.nn.Module) -> bool:
    """Whether the module is compiled, or anything else is called with each of its calls and would miss them."""
    return bool(
        module._forward_hooks  # pyright: ignore[reportPrivateUsage]
        or module._forward_pre_hooks  # pyright: ignore[reportPrivateUsage]
        or module._backward_hooks  # pyright: ignore[reportPrivateUsage]
        or module._backward_pre_hooks  # pyright: ignore[reportPrivateUsage]
        or module._compiled_call_impl  # pyright: ignore
        or torch.nn.modules.module._has_any_global_hook()  # pyright: ignore[reportPrivateUsage]
    )


def children_of(module: torch.nn.Module) -> dict[str, torch.nn.Module | None]:
    """The module's own children by name, each under all its names, and None for those that a program took away."""
    return module._modules  # pyright: ignore[reportPrivateUsage]


def version_of(value: Tensor) -> int:
    """How many times the tensor was written: what was computed from it is still right if this is the same."""
    return value._version


def fuser_methods() -> dict[Any, Any]:
    """The table by which `torch.ao.quantization.fuse_modules` finds what to do with types; empty if it is gone."""
    try:
        from torch.ao.quantization import fuser_method_mappings
    except ImportError:
        return {}
    return getattr(fuser_method_mappings, "_DEFAULT_OP_LIST_TO_FUSER_METHOD", {})
