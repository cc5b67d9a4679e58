"""PyTorch's spelling of the functions that the core and the composed passes use."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from batchnorm._engines.torch.private import is_view, unsafe_view
from batchnorm._engines.torch.tracing import EXACT_TYPES, is_traced

__all__ = [
    "activation",
    "append_zeros",
    "as_float",
    "as_own",
    "broadcast_to",
    "cast",
    "cumulate",
    "dtype",
    "erfc",
    "exp",
    "first",
    "maximum",
    "minimum",
    "reshape",
    "shape",
    "sigmoid",
    "sqrt",
    "stat_dtype",
    "stop_gradient",
    "sum",
    "tanh",
    "transpose",
    "where",
    "zeros_like",
]

Tensor = torch.Tensor

NARROW = (torch.float16, torch.bfloat16)

sqrt = torch.sqrt
exp = torch.exp
tanh = torch.tanh
sigmoid = torch.sigmoid
erfc = torch.erfc
where: Any = torch.where
zeros_like = torch.zeros_like


def maximum(x: Tensor, y: Any) -> Tensor:
    return torch.maximum(x, y) if isinstance(y, Tensor) else torch.clamp(x, min=y)


def minimum(x: Tensor, y: Any) -> Tensor:
    return torch.minimum(x, y) if isinstance(y, Tensor) else torch.clamp(x, max=y)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "hard_tanh": functional.hardtanh,
    "hard_swish": functional.hardswish,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def activation(name: str, slope: float) -> Callable[[Tensor], Tensor]:
    if name == "leaky_relu":
        return partial(functional.leaky_relu, negative_slope=slope)
    return _ACTIVATIONS[name]


def stop_gradient(x: Tensor) -> Tensor:
    return x.detach()


def sum(x: Tensor, axes: Sequence[int]) -> Tensor:
    # torch.sum would take no axes for all of them.
    return torch.sum(x, dim=tuple(axes)) if axes else x


def reshape(x: Tensor, shape: Sequence[Any]) -> Tensor:
    return x.reshape(tuple(shape))


def broadcast_to(x: Tensor, shape: Sequence[Any]) -> Tensor:
    return x.expand(tuple(shape))


def transpose(x: Tensor, order: Sequence[int]) -> Tensor:
    return x.permute(tuple(order))


def cumulate(x: Tensor) -> Tensor:
    return torch.cumsum(x, dim=0)


def first(x: Tensor, count: Any) -> Tensor:
    # A copy: an output that is a view would make activations in place behind it copy whole gradients.
    return x[:count].clone()


def append_zeros(x: Tensor, count: Any) -> Tensor:
    return torch.cat([x, x.new_zeros((count, *x.shape[1:]))])


def shape(x: Tensor) -> tuple[Any, ...]:
    """Sizes: ints, and symbols while a program of unknown sizes is traced."""
    return tuple(x.shape)


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype)


def dtype(x: Tensor) -> torch.dtype:
    return x.dtype


def stat_dtype(x: Tensor) -> torch.dtype:
    """float32 for 16-bit floats, else the dtype of x."""
    return torch.float32 if x.dtype in NARROW else x.dtype


def as_float(size: Any, dtype: torch.dtype) -> Any:
    if isinstance(size, Tensor):  # as sizes are while torch.jit.trace records
        return size.to(dtype)
    return float(size) if isinstance(size, int) else torch.scalar_tensor(size, dtype=dtype)


def as_own(y: Tensor, shape: Sequence[Any] | None = None) -> Tensor:
    """y in this shape, as a tensor that is not a view. y must be new: nothing else may refer to its base.

    PyTorch also records in-place operations on a view for its base tensor, and copies whole gradients to do so.
    """
    shape = y.shape if shape is None else shape
    if is_traced():
        return y.reshape(shape)
    if not is_view(y) and y.shape == shape:
        return y
    if not y.is_contiguous() and type(y) not in EXACT_TYPES:
        # Some tensors, such as DTensor, have no views with another memory order.
        return y.reshape(shape).clone()
    return unsafe_view(y, shape)
