"""Which modules and calls of PyTorch are activations that a layer can apply, and which records these are."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from batchnorm.activation import ACTIVATIONS, Activation

__all__ = ["activation_of_call", "activation_of_module", "is_altered", "record"]

# What makes a record of a module, or of the arguments of a call behind its input.
Reader = Callable[..., Activation | None]


_RECORDS = {name: Activation(name) for name in ACTIVATIONS}


def record(name: str, slope: float | None = None) -> Activation:
    """The record of that name. Compilers that trace Python warn of caches, but can read this."""
    return Activation(name, slope) if name == "leaky_relu" else _RECORDS[name]


def _leaky(slope: Any) -> Activation | None:
    return record("leaky_relu", float(slope)) if isinstance(slope, int | float) else None


def _clipped(low: Any, high: Any) -> Activation | None:
    return {(-1.0, 1.0): record("hard_tanh"), (0.0, 6.0): record("relu6")}.get((low, high))


def _gelu(approximate: Any) -> Activation | None:
    return {"none": record("gelu"), "tanh": record("gelu_tanh")}.get(approximate)


# By exact type: a subclass may compute something else.
_MODULES: dict[type, Reader] = {
    nn.ReLU: lambda module: record("relu"),
    nn.ReLU6: lambda module: record("relu6"),
    nn.LeakyReLU: lambda module: _leaky(module.negative_slope),
    nn.Hardtanh: lambda module: _clipped(module.min_val, module.max_val),
    nn.Hardswish: lambda module: record("hard_swish"),
    nn.SiLU: lambda module: record("silu"),
    nn.GELU: lambda module: _gelu(module.approximate),
    nn.Sigmoid: lambda module: record("sigmoid"),
    nn.Tanh: lambda module: record("tanh"),
}


def _constant(name: str) -> Reader:
    return lambda inplace=False: record(name)


def _leaky_call(negative_slope: Any = 0.01, inplace: bool = False) -> Activation | None:
    del inplace
    return _leaky(negative_slope)


def _clipped_call(min_val: Any = -1.0, max_val: Any = 1.0, inplace: bool = False) -> Activation | None:
    del inplace
    return _clipped(min_val, max_val)


def _gelu_call(*, approximate: Any = "none") -> Activation | None:
    return _gelu(approximate)


# By the function, or by the name of a tensor's method; readers take the arguments behind the input.
_CALLS: dict[Any, Reader] = {
    **dict.fromkeys(
        (functional.relu, functional.relu_, torch.relu, torch.relu_, "relu", "relu_"), _constant("relu")
    ),
    functional.relu6: _constant("relu6"),
    **dict.fromkeys((functional.leaky_relu, functional.leaky_relu_), _leaky_call),
    **dict.fromkeys((functional.hardtanh, functional.hardtanh_), _clipped_call),
    functional.hardswish: _constant("hard_swish"),
    functional.silu: _constant("silu"),
    functional.gelu: _gelu_call,
    **dict.fromkeys(
        (functional.sigmoid, torch.sigmoid, torch.sigmoid_, "sigmoid", "sigmoid_"), _constant("sigmoid")
    ),
    **dict.fromkeys((functional.tanh, torch.tanh, torch.tanh_, "tanh", "tanh_"), _constant("tanh")),
}


def activation_of_module(module: object) -> Activation | None:
    """The record of a module that is one of the activations; None if it is something else."""
    read = _MODULES.get(type(module))
    return None if read is None else read(module)


def is_altered(module: object) -> bool:
    """Whether a module is an instance of a subclass of an activation, which may compute something else."""
    return isinstance(module, tuple(_MODULES)) and type(module) not in _MODULES


def activation_of_call(target: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation | None:
    """The same for a function, or the name of a tensor's method, called with these arguments behind the input."""
    read = _CALLS.get(target)
    if read is None:
        return None
    try:
        return read(*args, **kwargs)
    except TypeError:  # other arguments, such as out=, or sizes that are known only during the call
        return None
