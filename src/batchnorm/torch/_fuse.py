"""Joining batch norms with the activations behind them, in the modules that call both, and taking them apart again.

No module is replaced and no layer changes. A module whose forward method calls a batch norm and then an activation
takes on a class derived from its own, in which `forward` calls both as one. Everything else (children, hooks,
parameters, other methods) is the module's own, and the original method still runs whenever the joined one may not stand
for it: while the program is traced or compiled, if an attribute that it depends on has changed, or if the arguments are
anything but plain tensors.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from batchnorm._engines.torch.private import children_of
from batchnorm._engines.torch.tracing import EXACT_TYPES
from batchnorm.torch._activations import activation_of_module, is_altered
from batchnorm.torch._chains import Join, find_joins, why_apart, write_joins
from batchnorm.torch._join import (
    ABSORBS,
    RUNS_IN_TURN,
    absorbed,
    end_of_join,
    is_joinable,
    last_layer,
    must_see_parts,
    norm_act,
    run_sequence,
    runs_in_turn,
)
from batchnorm.torch._layers import Layer
from batchnorm.torch._trace import NotFollowedError, Trace, names_of_arguments, trace

__all__ = ["fuse", "joined", "take_apart"]

# Where a derived class keeps the class that it was derived from, and what it joins.
WAS, JOINS = "_before_joining", "_joins"
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)
_MISSING = object()
END = "the end of the module"


def fuse(model: nn.Module) -> list[Join]:
    """Join what can be joined in a model, and say what became of each call of one of our layers."""
    found: list[Join] = []
    for module in model.modules():
        _restore(module)
    for path, module in model.named_modules():
        found += _under(path, _fuse_one(module))
    return _without_ends(found)


def take_apart(model: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """Give all modules of a model their own classes again; which could not be, and why."""
    left: list[tuple[str, nn.Module, str]] = []
    for path, module in model.named_modules():
        _restore(module)
        if hasattr(type(module), WAS):
            left.append((path, module, "its class was derived again since its calls were joined"))
    return left


def joined(model: nn.Module) -> tuple[Join, ...]:
    """Which batch norms `convert(model, fuse=True)` joined with what follows them, and why it left the others.

    Args:
        model: a module, converted or not.

    Returns:
        A record for each call of one of our layers.

    Examples:
        >>> import torch
        >>> from batchnorm.torch import convert, joined
        >>> layers = torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.ReLU(), torch.nn.BatchNorm1d(3)
        >>> for each in joined(convert(torch.nn.Sequential(*layers), fuse=True)):
        ...     print(each.path, each.activation, each.reason)
        1 Activation(name='relu', slope=0.0) None
        3 None no activation that can be joined follows it, but the end of the module
    """
    found: list[Join] = []
    for path, module in model.named_modules():
        known = vars(type(module)).get(JOINS)
        if known is None:
            known = [
                each if each.activation is None else Join(each.path, None, False, _NOT_YET, True)
                for each in _plan(module)[1]
            ]
        elif isinstance(module, nn.Sequential):
            known = _sequence(module)[1]
        found += _under(path, [*known, *_absorbing(module, change=False)])
    return tuple(_without_ends(found))


_NOT_YET = "convert(model, fuse=True) would join it"


def _without_ends(joins: list[Join]) -> list[Join]:
    """Without what a sequence says of its last layer, if the module that calls the sequence joined that."""
    done = {each.path for each in joins if each.activation is not None}
    return [each for each in joins if each.path not in done or each.reason is None or END not in each.reason]


def _under(path: str, joins: list[Join]) -> Iterator[Join]:
    for each in joins:
        yield replace(each, path=".".join(filter(None, (path, each.path))))


def _restore(module: Any) -> None:
    was = vars(type(module)).get(WAS)
    if was is not None:
        module.__class__ = was


def _fuse_one(module: Any) -> list[Join]:
    forward, joins = _plan(module)
    if forward is not None:
        module.__class__ = _derived(type(module), forward, joins)
    return joins + _absorbing(module, change=True)


def _absorbing(layer: Any, change: bool) -> list[Join]:
    """timm's layer, which has an activation of its own."""
    if not isinstance(layer, Layer) or type(layer).forward is not norm_act or is_joinable(layer):
        return []
    activation = absorbed(layer)
    if activation is None:
        what = f"{type(layer.drop).__name__} and {type(layer.act).__name__}"
        return [Join("", None, False, f"{what}, which it applies itself, cannot be joined")]
    if change:
        setattr(layer, ABSORBS, True)
    elif ABSORBS not in vars(layer):
        return [Join("", None, False, _NOT_YET, True)]
    return [Join("", activation)]


def _plan(module: Any) -> tuple[Callable[..., Any] | None, list[Join]]:
    """A forward method that joins what the module calls, if there is anything to join, and what there is to say."""
    children = dict(_children(module))
    layers = [path for path, child in children.items() if _is_ours(child)]
    if not layers and not any(map(last_layer, children.values())):
        return None, []
    try:
        _check_pickling(type(module))
        if runs_in_turn(module):
            return _sequence(module)
        forward, joins = _traced(module)
    except NotFollowedError as error:
        return None, [Join(path, None, False, f"{type(module).__name__}: {error}", True) for path in layers]
    called = {each.path for each in joins}
    unused = f"the forward method of {type(module).__name__} does not call it"
    return forward, joins + [Join(path, None, False, unused) for path in layers if path not in called]


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that nothing but this module's forward method can call."""
    if isinstance(module, _CONTAINERS):
        return
    waiting = list(module.named_children())
    while waiting:
        path, child = waiting.pop(0)
        if isinstance(child, _CONTAINERS):
            waiting += [(f"{path}.{name}", each) for name, each in child.named_children()]
        else:
            yield path, child


def _is_ours(module: nn.Module) -> bool:
    """Whether a module is a layer of ours whose activation, if it has one, is called by another."""
    return isinstance(module, Layer) and (type(module).forward is not norm_act or is_joinable(module))


def _sequence(module: nn.Sequential) -> tuple[Callable[..., Any] | None, list[Join]]:
    """`nn.Sequential` needs no trace: its children follow each other, whichever they are at the time of the call."""
    children, joins = list(module), list[Join]()
    for at, path in enumerate(children_of(module)):
        layer = children[at]
        if not isinstance(layer, Layer) or not _is_ours(layer):
            continue
        end = end_of_join(children, at)
        behind = [each for each in children[at + 1 :] if type(each) is not nn.Identity][:1]
        reason = why_apart(layer, *children[at + 1 : end]) if end or _acts(behind) else None
        if end is not None and reason is None:
            joins.append(Join(path, activation_of_module(children[end - 1])))
            continue
        looks = reason is not None and layer.settings.activation is None
        if reason is None and behind and is_altered(behind[0]):
            reason, looks = (
                f"{type(behind[0]).__name__} is a subclass of an activation, and may be another",
                True,
            )
        what = type(behind[0]).__name__ if behind else END
        reason = reason or f"no activation that can be joined follows it, but {what}"
        joins.append(Join(path, None, False, reason, looks))
    cls: Any = type(module)

    @functools.wraps(cls.forward)
    def forward(self: Any, input: Any) -> Any:
        return cls.forward(self, input) if must_see_parts() else run_sequence(list(self), input)

    setattr(forward, RUNS_IN_TURN, True)

    return (forward if any(each.activation for each in joins) else None), joins


def _acts(modules: list[nn.Module]) -> bool:
    return any(activation_of_module(each) is not None for each in modules)


@dataclass(frozen=True)
class _Written:
    """A joined forward method for one mode, and what it depends on."""

    function: Callable[..., Any]
    reads: tuple[tuple[str, str, Any], ...]


def _traced(module: nn.Module) -> tuple[Callable[..., Any] | None, list[Join]]:
    modules = dict(module.named_modules(remove_duplicate=False))
    written: dict[bool, _Written] = {}
    found: list[list[Join]] = []
    for training in (True, False):
        seen: Trace = trace(module, training)
        chains, joins = find_joins(seen.graph, modules)
        found.append(joins)
        if chains:
            written[training] = _Written(write_joins(seen.graph, chains), seen.reads)
    if found[0] != found[1]:
        raise NotFollowedError("its forward method does not follow in training and in evaluation alike")
    return (_forward(module, written) if written else None), found[0]


def _check_pickling(cls: Any) -> None:
    if cls.__reduce_ex__ is not object.__reduce_ex__ or cls.__reduce__ is not object.__reduce__:
        raise NotFollowedError("it has a way of its own of being copied and pickled")


def _forward(module: nn.Module, written: dict[bool, _Written]) -> Callable[..., Any]:
    cls: Any = type(module)
    count, names = len(names_of_arguments(cls)), _names_of_children(module)

    @functools.wraps(cls.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (
            must_see_parts()
            or kwargs
            or len(args) != count
            or any(type(each) not in EXACT_TYPES for each in args)
        ):
            return cls.forward(self, *args, **kwargs)
        now = written[self.training]
        if _names_of_children(self) != names or not all(_is_still(self, *each) for each in now.reads):
            return cls.forward(self, *args, **kwargs)
        return now.function(self, *args)

    return forward


def _names_of_children(module: nn.Module) -> list[str]:
    """Loops over a container's children are part of the graph, and so is whether there is a child."""
    names: list[str] = []
    for name, child in children_of(module).items():
        if child is not None:
            names.append(name)
            if isinstance(child, (nn.ModuleList, nn.ModuleDict, nn.Sequential)):
                names += children_of(child)
    return names


def _is_still(module: nn.Module, path: str, name: str, value: Any) -> bool:
    owner = module.get_submodule(path) if path else module
    found = getattr(owner, name, _MISSING)
    return found is value or (type(found) is type(value) and bool(found == value))


def _derived(cls: Any, forward: Callable[..., Any], joins: list[Join]) -> type:
    """A class derived from a module's, for one module, with another forward method."""

    def reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
        del protocol
        return _revive, (cls,), self.__getstate__()

    def prepare(self: Any) -> nn.Module:
        """What `torch.jit.script` compiles: the module as it was."""
        plain = cls.__new__(cls)
        vars(plain).update(vars(self))
        vars(plain)["_modules"] = dict(children_of(self))
        own = getattr(cls, "__prepare_scriptable__", None)
        return plain if own is None else own(plain)

    def extra_repr(self: Any) -> str:
        told = [
            " + ".join([each.path, *(["residual"] if each.residual else []), each.activation.name])
            for each in joins
            if each.activation is not None
        ]
        return "\n".join(filter(None, (cls.extra_repr(self), f"joined: {', '.join(told)}")))

    members: dict[str, Any] = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    members |= {"forward": forward, "extra_repr": extra_repr, WAS: cls, JOINS: joins}
    members |= {"__reduce_ex__": reduce, "__prepare_scriptable__": prepare}
    return type(cls.__name__, (cls,), members)


def _revive(cls: Any) -> Any:
    """An empty module for pickles and copies, which is joined again once it has its children."""

    def set_state(self: Any, state: Any) -> None:
        self.__class__ = cls
        self.__setstate__(state)
        _fuse_one(self)

    pending: Any = type(cls.__name__, (cls,), {"__setstate__": set_state})
    return pending.__new__(pending)
