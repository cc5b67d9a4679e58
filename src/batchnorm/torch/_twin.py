"""Our layers for PyTorch's tools that compare exact types: `torch.nn`'s own layer over the same tensors.

`torch.jit.script` asks each module what to compile in its place; `torch.ao.quantization.fuse_modules` has a table.
"""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from batchnorm._engines.torch.private import fuser_methods
from batchnorm.errors import format_error

__all__ = ["OWN", "is_kept", "register", "twin"]

Module = nn.Module

# The attributes that our layers have and torch.nn's do not.
OWN = (
    *("settings", "_plain", "_grouped", "_composed_inference", "_key", "_options"),
    *("_debiased_by", "_is_loaded", "_absorbs"),
    "__module__",
)


def is_kept(layer: Any) -> bool:
    """Whether `torch.nn`'s layer would train and infer as this one does."""
    return layer.settings.activation is None and (
        layer.settings.is_plain or not layer.settings.given.keys() - {"fused"}
    )


def twin(layer: Any, tool: str, infers: bool = False) -> Module:
    """`torch.nn`'s layer with the parameters, buffers and hooks of this one, which stay shared.

    Args:
        layer: one of ours.
        tool: the tool that asks for it.
        infers: whether the tool only needs normalization by the running statistics.

    Raises:
        ValueError: `torch.nn`'s layer would compute something else.
    """
    if not (is_kept(layer) or (infers and layer.settings.axes == (1,))):
        raise ValueError(
            format_error(
                f"{tool} was called on a model that has {layer}",
                "It knows only torch.nn's layers, which would train differently from this one",
                "Call batchnorm.torch.convert(model, back=True, force=True) first, which drops the options and keeps "
                "the running statistics",
            )
        )
    if parametrize.is_parametrized(layer):
        raise ValueError(
            format_error(
                f"{tool} was called on a model that has {layer}",
                "It takes layers that hold tensors, but parametrizations are functions that compute them",
                "Call torch.nn.utils.parametrize.remove_parametrizations first",
            )
        )
    theirs: Any = next(base for base in type(layer).__mro__ if base.__module__ == nn.BatchNorm1d.__module__)
    made = theirs.__new__(theirs)
    made.__dict__.update({name: value for name, value in vars(layer).items() if name not in OWN})
    return made


def register(layers: dict[type, type]) -> None:
    """Let `fuse_modules` take our layers wherever it takes `torch.nn`'s; `layers` is {theirs: ours}."""
    table = fuser_methods()
    for types, fuse in list(table.items()):
        if any(each in layers for each in types):
            table[tuple(layers.get(each, each) for each in types)] = _fuser(fuse, tuple(layers.values()))


def _fuser(fuse: Callable[..., Module], layers: tuple[type, ...]) -> Callable[..., Module]:
    def fused(is_qat: bool, *modules: Module) -> Module:
        # A layer that remains a layer may be trained later; one folded into the weights before it may not.
        infers = not is_qat and not isinstance(modules[0], layers)
        return fuse(
            is_qat, *(twin(m, "fuse_modules", infers) if isinstance(m, layers) else m for m in modules)
        )

    return fused
