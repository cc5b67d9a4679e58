"""What the forward method of one module does, as a graph in which all the modules inside it are single calls.

torch.fx runs the method with stand-ins for its arguments. It sees operations on these and nothing else, so whatever a
method may depend on besides is either recorded, to be compared before each use of the graph, or the method is not
followed at all.
"""

import dis
import enum
import inspect
import operator
import types
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

__all__ = ["NotFollowedError", "Trace", "names_of_arguments", "trace"]

# Attributes that every module has; programs do not read them in a forward method, except for `training`.
_OF_MODULES = frozenset(vars(nn.Module())) - {"training"}
# Names in a method's code that say that it does something which leaves no trace in a graph.
_UNSEEN = (
    *("checkpoint", "checkpoint_sequential", "is_grad_enabled", "set_grad_enabled", "_set_grad_enabled"),
    *("print", "random", "randint", "uniform"),
)
_UNSEEN_INSTRUCTIONS = {"WITH_EXCEPT_START": "has a with block", "STORE_GLOBAL": "assigns a global variable"}
_CONSTANTS = (
    *(bool, int, float, complex, str, bytes, type(None), enum.Enum, type),
    *(torch.dtype, torch.device, torch.memory_format, types.FunctionType, types.BuiltinFunctionType),
)


class NotFollowedError(Exception):
    """A method cannot be followed; the text says why."""


@dataclass(frozen=True)
class Trace:
    """A graph, and the attributes that were read while it was made: (path of the module, name, value)."""

    graph: fx.Graph
    reads: tuple[tuple[str, str, Any], ...]


def names_of_arguments(cls: type) -> list[str]:
    """The arguments of a class's forward method that a caller must give."""
    found: list[str] = []
    for name, each in list(inspect.signature(cls.forward).parameters.items())[1:]:  # pyright: ignore
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            raise NotFollowedError("its forward method takes any number of arguments")
        if each.default is each.empty:
            if each.kind is each.KEYWORD_ONLY:
                raise NotFollowedError(f"its forward method must be given {name} by name")
            found.append(name)
    return found


def trace(module: nn.Module, training: bool) -> Trace:
    """Follow a module's forward method, called with tensors for the arguments that it must be given.

    Raises:
        NotFollowedError: a graph would not stand for it.
    """
    cls = type(module)
    if "forward" in vars(module):
        raise NotFollowedError("its forward method was assigned to this one object")
    _scan(cls.forward, cls, set())
    modes = {each: each.training for each in module.modules()}
    try:
        for each in modes:
            each.training = training
        graphs = [_run(module, proxy) for proxy in (_Tensor, _Unknown)]
    finally:
        for each, mode in modes.items():
            each.training = mode
    if len({graph.python_code("self").src for graph, _ in graphs}) > 1:
        raise NotFollowedError("its forward method asks for the types of its arguments")
    graph, reads = graphs[0]
    known = {(path, name): value for path, name, value in reads if (path, name) != ("", "training")}
    for (path, name), value in known.items():
        if not _is_constant(value):
            where = ".".join(filter(None, ("self", path, name)))
            raise NotFollowedError(
                f"its forward method reads {where}, a {type(value).__name__} that may change"
            )
    return Trace(graph, tuple((*place, value) for place, value in known.items()))


def _is_constant(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_constant, value))  # pyright: ignore[reportUnknownArgumentType]
    return isinstance(value, _CONSTANTS)


def _scan(function: Any, cls: type, seen: set[Any]) -> None:
    """Look for what leaves no trace, in a method and in the program's own functions that it calls."""
    if function in seen:
        return
    seen.add(function)
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        _scan(wrapped, cls, seen)
    if not hasattr(function, "__code__"):
        return
    for code in _codes(function.__code__):
        for name in code.co_names:
            if name in _UNSEEN:
                raise NotFollowedError(f"its forward method uses {name}")
            called = getattr(cls, name, None) or function.__globals__.get(name)
            if isinstance(called, types.FunctionType) and not str(called.__module__).startswith("torch."):
                _scan(called, cls, seen)
        for instruction in dis.get_instructions(code):
            if instruction.opname in _UNSEEN_INSTRUCTIONS:
                raise NotFollowedError(f"its forward method {_UNSEEN_INSTRUCTIONS[instruction.opname]}")


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _run(module: nn.Module, proxy: type) -> tuple[fx.Graph, list[tuple[str, str, Any]]]:
    reads: list[tuple[str, str, Any]] = []
    arguments = names_of_arguments(type(module))
    try:
        with _watched(module, arguments, reads), _Own():
            return _Tracer(proxy).trace(module), reads
    except NotFollowedError:
        raise
    except Exception as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        raise NotFollowedError(f"torch.fx cannot follow its forward method ({said})") from error


@contextmanager
def _watched(module: nn.Module, arguments: list[str], reads: list[tuple[str, str, Any]]) -> Generator[None]:
    """For a time, modules that note which of their attributes are read, and whose attributes cannot be assigned."""
    classes = {
        each: (type(each), path)
        for path, each in module.named_modules()
        if not isinstance(each, torch.jit.ScriptModule)
    }
    try:
        for each, (cls, path) in classes.items():
            forward = _with_arguments(cls, arguments) if each is module else None
            try:
                each.__class__ = _watching(cls, path, forward, reads)
            except TypeError as error:
                raise NotFollowedError(f"the class {cls.__name__} cannot be watched ({error})") from None
        yield
    finally:
        for each, (cls, _) in classes.items():
            object.__setattr__(each, "__class__", cls)


def _with_arguments(cls: Any, arguments: list[str]) -> Any:
    """A forward method that has no arguments but these: torch.fx makes stand-ins for all that there are."""
    scope: dict[str, Any] = {"original": cls.forward}
    given = ", ".join(("self", *arguments))
    exec(f"def forward({given}): return original({given})", scope)
    return scope["forward"]


def _watching(cls: Any, path: str, forward: Any, reads: list[tuple[str, str, Any]]) -> Any:
    def get(self: Any, name: str) -> Any:
        value = cls.__getattribute__(self, name)
        own = object.__getattribute__(self, "__dict__")
        if name in own and name not in _OF_MODULES and not name.startswith("__"):
            reads.append((path, name, value))
        return value

    def assign(self: Any, name: str, value: Any) -> None:
        del self, value
        raise NotFollowedError(f"its forward method assigns {'.'.join(filter(None, ('self', path, name)))}")

    members: dict[str, Any] = {"__getattribute__": get, "__setattr__": assign, "__module__": cls.__module__}
    if forward is not None:
        members["forward"] = forward
    return type(cls.__name__, (cls,), members)


class _Own(TorchFunctionMode):
    """Notices numbers that come from elsewhere than the arguments; a graph would keep those of one call."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(map(_stands_in, (*args, *kwargs.values()))):
            name = getattr(func, "__name__", str(func))
            raise NotFollowedError(f"its forward method calls {name} on something other than its arguments")
        return func(*args, **kwargs)


def _stands_in(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_stands_in, value))  # pyright: ignore[reportUnknownArgumentType]
    return issubclass(type(value), fx.Proxy)


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def __init__(self, stand_in: Callable[[fx.Node, fx.Tracer], fx.Proxy]) -> None:
        super().__init__()
        self._stand_in = stand_in

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        del m, module_qualified_name
        return True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return self._stand_in(node, self)

    def create_arg(self, a: Any) -> Any:
        return a.node if issubclass(type(a), fx.Proxy) else super().create_arg(a)


class _Unknown(fx.Proxy):
    """A stand-in of which nothing is known; what is done to it in place is recorded as such."""

    def __iadd__(self, other: Any) -> Any:
        return self._in_place("iadd", other)

    def __isub__(self, other: Any) -> Any:
        return self._in_place("isub", other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place("imul", other)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place("itruediv", other)

    def _in_place(self, name: str, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", getattr(operator, name), (self, other), {})


class _Tensor(_Unknown):
    """A stand-in that says it is a tensor."""

    _is_param = False

    @property
    def __class__(self) -> Any:  # pyright: ignore
        return torch.Tensor
