"""Calling a batch norm with what follows it, in one pass if that is possible at this moment.

Each call decides again: whatever a program has changed since (hooks, another activation, layers converted back) takes
effect at once, because the parts are then called one by one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from batchnorm._core.engine import Epilogue
from batchnorm._core.epilogue import follow
from batchnorm._engines.torch import ops
from batchnorm._engines.torch.private import children_of, is_hooked
from batchnorm._engines.torch.tracing import EXACT_TYPES, in_compiled_step, is_traced
from batchnorm.activation import Activation
from batchnorm.torch._activations import activation_of_module, record
from batchnorm.torch._layers import Layer

__all__ = [
    "ABSORBS",
    "RUNS_IN_TURN",
    "absorbed",
    "end_of_join",
    "is_joinable",
    "join",
    "last_layer",
    "must_see_parts",
    "norm_act",
    "run_sequence",
    "runs_in_turn",
]

Tensor = torch.Tensor

# The attribute of timm's layers that were converted with `fuse=True`.
ABSORBS = "_absorbs"
# The attribute of a forward method that does what `nn.Sequential`'s does.
RUNS_IN_TURN = "_runs_in_turn"


def must_see_parts() -> bool:
    """Whether something is at work that should see one operation after the other, such as an exporter."""
    return is_traced() and not in_compiled_step()


def is_joinable(layer: object) -> bool:
    """Whether a module is one of our layers that can be given an activation with a call."""
    if not isinstance(layer, Layer) or layer.settings.activation is not None:
        return False
    forward = type(layer).forward
    return forward is Layer.forward or (forward is norm_act and _does_nothing(layer.drop, layer.act))


def _does_nothing(*modules: Any) -> bool:
    return all(type(each) is nn.Identity and not is_hooked(each) for each in modules)


def runs_in_turn(module: object) -> bool:
    """Whether a module only calls its children one after the other."""
    forward: Any = getattr(type(module), "forward", None)
    return forward is nn.Sequential.forward or hasattr(forward, RUNS_IN_TURN)


def last_layer(module: nn.Module) -> tuple[str, Layer] | None:
    """The layer with which a sequence ends, if it can be given an activation, and its path from there."""
    path: list[str] = []
    while runs_in_turn(module) and not is_hooked(module):
        name, last = next(reversed(children_of(module).items()), ("", None))
        if last is None:
            return None
        path.append(name)
        module = last
    return (".".join(path), module) if path and isinstance(module, Layer) and is_joinable(module) else None


def join(
    layer: Any,
    x: Tensor,
    residual: Tensor | None,
    before: Sequence[nn.Module],
    behind: Sequence[nn.Module],
    name: str | None = None,
    slope: float | None = None,
) -> Tensor:
    """act(layer(x) + residual).

    Args:
        layer: the batch norm, or a sequence that ends with it.
        x: its input.
        residual: what is added; None for nothing.
        before: the modules between the layer and the addition, which were identities.
        behind: the modules behind it. The last one is the activation, unless it is a function.
        name: the activation's, if it is a function.
        slope: the activation's, likewise.
    """
    while type(x) in EXACT_TYPES and last_layer(layer) is not None:
        *body, layer = layer
        x = run_sequence(body, x)
    if name is None:
        activation, identities = activation_of_module(behind[-1]), (*before, *behind[:-1])
    else:
        activation, identities = record(name, slope), (*before, *behind)
    if (
        activation is not None
        and is_joinable(layer)
        and _fits(x, residual)
        and not any(is_hooked(each) for each in (layer, *before, *behind))
        and all(type(each) is nn.Identity for each in identities)
    ):
        return layer(x, residual=residual, activation=activation)
    y = layer(x)
    for each in before:
        y = each(y)
    if residual is not None:
        y = y + residual
    for each in behind:
        y = each(y)
    return y if name is None else follow(ops, y, Epilogue(activation, None))


def _fits(x: Tensor, residual: Tensor | None) -> bool:
    """Whether the sum has the shape and the dtype of the result; if not, it is left to PyTorch's rules."""
    if residual is None:
        return type(x) in EXACT_TYPES
    return (
        type(x) in EXACT_TYPES
        and type(residual) in EXACT_TYPES
        and residual.shape == x.shape
        and residual.dtype is x.dtype
        and residual.device == x.device
    )


def run_sequence(modules: Sequence[nn.Module], x: Any) -> Any:
    """Call modules in turn, joining batch norms with the activations behind them."""
    at = 0
    while at < len(modules):
        end = end_of_join(modules, at) if type(x) in EXACT_TYPES else None
        if end is None:
            x, at = modules[at](x), at + 1
        else:
            x, at = join(modules[at], x, None, (), modules[at + 1 : end]), end
    return x


def end_of_join(modules: Sequence[nn.Module], start: int) -> int | None:
    """Where the modules end that a batch norm at `start` takes in; None if there is none, or nothing for it."""
    if not is_joinable(modules[start]):
        return None
    for at in range(start + 1, len(modules)):
        if activation_of_module(modules[at]) is not None:
            return at + 1
        if type(modules[at]) is not nn.Identity:
            return None
    return None


def norm_act(
    self: Any,
    x: Any,
    weight: Any = None,
    mask: Any = None,
    residual: Any = None,
    activation: Activation | None = None,
) -> Any:
    """The `forward` of timm's layer, whose own contains a copy of `torch.nn`'s, and then its `drop` and `act`."""
    if ABSORBS in self.__dict__ and activation is None and type(x) in EXACT_TYPES and not must_see_parts():
        own = absorbed(self)
        if own is not None:
            return Layer.forward(self, x, weight, mask, residual, own)
    return self.act(self.drop(Layer.forward(self, x, weight, mask, residual, activation)))


def absorbed(layer: Any) -> Activation | None:
    """The activation that timm's layer has of its own; None if it cannot be joined."""
    if layer.settings.activation is not None or is_hooked(layer.act) or not _does_nothing(layer.drop):
        return None
    return activation_of_module(layer.act)
