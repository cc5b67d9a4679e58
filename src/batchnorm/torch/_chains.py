"""Finding, in the graph of a module's forward method, the batch norms that an activation follows, and joining them."""

import linecache
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.lazy import LazyModuleMixin

from batchnorm._engines.torch.private import is_hooked
from batchnorm.activation import Activation
from batchnorm.torch._activations import activation_of_call, activation_of_module, is_altered
from batchnorm.torch._join import is_joinable, join, last_layer, runs_in_turn
from batchnorm.torch._layers import Layer

__all__ = ["Join", "find_joins", "why_apart", "write_joins"]

Node = fx.Node
Modules = Mapping[str, nn.Module]

_ADDITIONS = (operator.add, operator.iadd, torch.add)
_ADDING_METHODS = ("add", "add_")
_WRITING = (operator.iadd, "add_")
# Their results are new memory, so that what is written elsewhere cannot change them.
_NEW = (operator.add, operator.sub, operator.mul, torch.add, torch.cat, torch.matmul)
_NEW_MODULES = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, Layer),
)


@dataclass(frozen=True)
class Join:
    """What became of one batch norm when its model was converted with `fuse=True`.

    Attributes:
        path: the layer's, as in `model.named_modules()`.
        activation: what is applied with it; None if it was left alone.
        residual: whether something is added before the activation.
        reason: why it was left alone.
        looks_joinable: whether an activation does follow, or may, so that `convert` warned.
    """

    path: str
    activation: Activation | None = None
    residual: bool = False
    reason: str | None = None
    looks_joinable: bool = False


@dataclass
class _Chain:
    """The nodes from a batch norm to its activation."""

    layer: Node
    before: list[Node]
    addition: Node | None
    residual: Node | None
    behind: list[Node]
    activation: Activation

    @property
    def last(self) -> Node:
        return self.behind[-1]


class _ApartError(Exception):
    def __init__(self, reason: str, looks_joinable: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.looks_joinable = reason, looks_joinable


def why_apart(layer: Any, *others: nn.Module) -> str | None:
    """Why a layer cannot be given the activation that follows it; None if it can."""
    if not is_joinable(layer):
        if layer.settings.activation is not None:
            return "it has an activation of its own"
        return f"the forward method of {type(layer).__name__} takes no activation"
    # A lazy layer waits for its first input in a hook, which is gone afterwards.
    if is_hooked(layer) and not isinstance(layer, LazyModuleMixin):
        return "it has hooks, which would be given the activation's result"
    for each in others:
        if is_hooked(each):
            return f"the {type(each).__name__} behind it has hooks, which would not be called"
    return None


def find_joins(graph: fx.Graph, modules: Modules) -> tuple[list[_Chain], list[Join]]:
    """The chains that can be joined, and a record for each call of a batch norm, in the graph's order.

    A sequence that ends with a batch norm counts as one, if it is joined; otherwise it has records of its own.
    """
    chains: list[_Chain] = []
    joins: list[tuple[int, Join]] = []
    taken: set[Node] = set()
    calls = [
        (place, node, modules[str(node.target)])
        for place, node in enumerate(graph.nodes)
        if node.op == "call_module"
    ]
    # Of two that are added, one takes the other as its residual: rather a layer than a sequence, and the later one.
    for place, node, module in sorted(
        calls, key=lambda call: (isinstance(call[2], Layer), call[0]), reverse=True
    ):
        found = ("", module) if isinstance(module, Layer) else last_layer(module)
        if found is None:
            continue
        path = ".".join(filter(None, (str(node.target), found[0])))
        try:
            chain = _chain(node, module, found[1], modules, taken)
        except _ApartError as apart:
            if module is found[1]:
                joins.append((place, Join(path, None, False, apart.reason, apart.looks_joinable)))
            continue
        chains.append(chain)
        if chain.addition is not None:
            taken.add(chain.addition)
        joins.append((place, Join(path, chain.activation, chain.residual is not None)))
    return chains, [each for _, each in sorted(joins, key=lambda pair: pair[0])]


def _chain(node: Node, called: nn.Module, layer: Layer, modules: Modules, taken: set[Node]) -> _Chain:
    before, user = _through_identities(node, modules)
    addition = residual = None
    behind: list[Node] = []
    last = before[-1] if before else node
    if _is_addition(user):
        addition = user
        residual = _other(user, last)
        behind, user = _through_identities(user, modules, "the sum")
    activation = _activation(user, modules)
    if activation is None:
        raise _no_activation(user, modules, addition is not None)
    if addition is None:
        before, behind = [], before
    elif addition in taken:
        raise _ApartError("its result is the residual of another batch norm")
    if len(node.args) != 1 or node.kwargs or not isinstance(node.args[0], Node):
        raise _ApartError("it is called with more than its input", True)
    behind.append(user)
    others = [modules[str(each.target)] for each in (*before, *behind) if each.op == "call_module"]
    reason = why_apart(layer, *others)
    if reason is not None:
        raise _ApartError(reason, layer.settings.activation is None)
    if addition is not None and residual is not None:
        _check_order(node, called, addition, last, modules)
        _check_residual(residual, addition)
    return _Chain(node, before, addition, residual, behind, activation)


def _through_identities(node: Node, modules: Modules, what: str = "its result") -> tuple[list[Node], Node]:
    """The identities behind a node, and what uses the last of them, which must be one operation."""
    identities: list[Node] = []
    while True:
        if len(node.users) != 1:
            raise _ApartError(f"{what} is used {len(node.users)} times")
        user = next(iter(node.users))
        passes = user.op == "call_module" and type(modules.get(str(user.target))) is nn.Identity
        if not passes or user.args != (node,) or user.kwargs:
            return identities, user
        identities.append(user)
        node = user


def _is_addition(node: Node) -> bool:
    if node.op == "call_function":
        adds = node.target in _ADDITIONS
    else:
        adds = node.op == "call_method" and node.target in _ADDING_METHODS
    return adds and len(node.args) == 2 and not node.kwargs


def _other(addition: Node, one: Node) -> Node:
    first, second = addition.args
    other = second if first is one else first
    if not isinstance(other, Node) or other is one:
        raise _ApartError("what is added to it is not another tensor")
    if addition.target in _WRITING and first is not one:
        raise _ApartError("it is added in place to another tensor", True)
    return other


def _activation(node: Node, modules: Modules) -> Activation | None:
    # Its input comes first, and further inputs may be constants only.
    if len(node.all_input_nodes) != 1 or not node.args or not isinstance(node.args[0], Node):
        return None
    if node.op == "call_module":
        plain = len(node.args) == 1 and not node.kwargs
        return activation_of_module(modules.get(str(node.target))) if plain else None
    if node.op in ("call_function", "call_method"):
        return activation_of_call(node.target, node.args[1:], node.kwargs)
    return None


def _no_activation(user: Node, modules: Modules, added: bool) -> _ApartError:
    module = modules.get(str(user.target)) if user.op == "call_module" else None
    if is_altered(module):
        return _ApartError(
            f"{type(module).__name__} is a subclass of an activation, and may be another", True
        )
    what = type(module).__name__ if module is not None else getattr(user.target, "__name__", str(user.target))
    name = "the end of the method" if user.op == "output" else what
    return _ApartError(
        f"no activation that can be joined follows {'the addition' if added else 'it'}, but {name}"
    )


def _check_order(node: Node, called: nn.Module, addition: Node, last: Node, modules: Modules) -> None:
    """Refuse a layer that would be called later than now, if that could change its input or its statistics."""
    of_input = set(_memory(node.args[0], modules))
    between = node.next
    while between is not addition:
        module = modules.get(str(between.target)) if between.op == "call_module" else None
        if module is not None and _does_nothing(module):
            between = between.next
            continue
        if not isinstance(called, Layer):
            raise _ApartError(
                "other calls come between it and the addition, and might depend on their order", True
            )
        if module is not None and called in module.modules():
            raise _ApartError("it is called again before the addition", True)
        if between.op == "get_attr" and str(between.target).startswith(f"{node.target}."):
            raise _ApartError("its parameters or statistics are read before the addition", True)
        inputs = between.all_input_nodes if between is not last else []
        if any(of_input & set(_memory(each, modules)) for each in inputs):
            raise _ApartError("its input is used again before the addition, and might be changed", True)
        between = between.next


def _does_nothing(module: nn.Module) -> bool:
    return type(module) is nn.Identity or (
        runs_in_turn(module) and all(map(_does_nothing, module.children()))
    )


def _check_residual(residual: Node, addition: Node) -> None:
    """Refuse a residual that might be written to after the addition: the gradient of a joined call reads it."""
    later = addition.next
    while later.op != "root":
        if residual in later.all_input_nodes and later.op != "output":
            raise _ApartError("what is added to it is used again afterwards, and might be changed", True)
        later = later.next


def _memory(node: Any, modules: Modules) -> Iterator[object]:
    """The nodes whose memory a value may share; all arguments and attributes count as one."""
    waiting, seen = [node], set[Node]()
    while waiting:
        each = waiting.pop()
        if each in seen:
            continue
        seen.add(each)
        yield "given" if each.op in ("placeholder", "get_attr") else each
        if each.op == "call_module":
            is_new = _makes_new(modules[str(each.target)])
        else:
            is_new = each.op == "call_function" and each.target in _NEW
        if not is_new:
            waiting.extend(each.all_input_nodes)


def _makes_new(module: nn.Module) -> bool:
    if runs_in_turn(module):
        return any(map(_makes_new, module.children()))
    return isinstance(module, _NEW_MODULES)


def write_joins(graph: fx.Graph, chains: list[_Chain]) -> Callable[..., Any]:
    """A function of the module and its arguments that computes what the graph does, with each chain in one call."""
    for chain in chains:
        place = chain.layer if chain.addition is None else chain.addition
        with graph.inserting_before(place):
            before = [graph.get_attr(str(each.target)) for each in chain.before]
            called = [each for each in chain.behind if each.op == "call_module"]
            behind = [graph.get_attr(str(each.target)) for each in called]
            layer = graph.get_attr(str(chain.layer.target))
            args: list[Any] = [layer, chain.layer.args[0], chain.residual, tuple(before), tuple(behind)]
            if chain.last.op != "call_module":
                args += [chain.activation.name, chain.activation.slope]
            made = graph.call_function(join, tuple(args))
        chain.last.replace_all_uses_with(made)
        addition = [] if chain.addition is None else [chain.addition]
        for each in reversed([chain.layer, *chain.before, *addition, *chain.behind]):
            graph.erase_node(each)
    graph.lint()
    written = graph.python_code("self")
    scope = dict(written.globals)
    # Tracebacks show these lines.
    file = f"<joined forward {id(graph)}>"
    linecache.cache[file] = len(written.src), None, written.src.splitlines(keepends=True), file
    exec(compile(written.src, file, "exec"), scope)
    return scope["forward"]
