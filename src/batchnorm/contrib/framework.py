"""`tf.contrib.framework.arg_scope` and its companions: default arguments for functions, set over a stretch of code.

    with arg_scope([batch_norm], decay=0.9, is_training=training):
        y = batch_norm(x)

A function takes part once it is decorated with `add_arg_scope`. It then also obeys tf_slim's `arg_scope`, where
tf_slim has been imported; what our own scope says goes before that, and what the call says before both.
"""

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Generator, Sequence
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, cast

from batchnorm.errors import refusal

__all__ = [
    "add_arg_scope",
    "arg_scope",
    "arg_scope_func_key",
    "arg_scoped_arguments",
    "current_arg_scope",
    "has_arg_scope",
]

P = ParamSpec("P")
R = TypeVar("R")
Scope = dict[str, dict[str, Any]]

_current: ContextVar[Scope | None] = ContextVar("batchnorm_arg_scope", default=None)
_decorated: dict[str, tuple[str, ...]] = {}


class _Scoped:
    """A function that looks up its defaults. An object, because tf_slim asks it for `_key_op` before anything else."""

    def __init__(self, function: Callable[..., Any], key: str) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._bare = inspect.unwrap(function)
        self._key = key

    @property
    def _key_op(self) -> str:
        """The key under which scopes know the function; tf_slim, if it came later than we, is told of it here."""
        slim = _slim()
        if slim is not None and not slim.has_arg_scope(self._bare):
            slim.add_arg_scope(self._bare)
        return self._key

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        slim = _slim()
        outer = {} if slim is None else slim.current_arg_scope().get(self._key, {})
        defaults = outer | current_arg_scope().get(self._key, {})
        positional = list(inspect.signature(self._function).parameters)[: len(args)]
        defaults = {name: value for name, value in defaults.items() if name not in positional}
        return self._function(*args, **(defaults | kwargs))

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __getattr__(self, name: str) -> Any:
        """Whatever else a function has, such as the `__defaults__` that tf_slim's decorator reads."""
        if name == "_bare":  # not yet set: there is nothing to ask
            raise AttributeError(name)
        return getattr(self._bare, name)

    def __repr__(self) -> str:
        return f"<function {self._function.__qualname__}{inspect.signature(self._function)} with arg_scope>"

    def __reduce__(self) -> str:
        return self._function.__qualname__


def add_arg_scope(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that `arg_scope` can set its keyword arguments."""
    key = getattr(function, "_key_op", str(inspect.unwrap(function)))
    takes = inspect.signature(function).parameters.values()
    _decorated[key] = tuple(parameter.name for parameter in takes if parameter.default is not parameter.empty)
    return cast(Callable[P, R], _Scoped(function, key))


@contextlib.contextmanager
def arg_scope(list_ops_or_scope: Any, **kwargs: Any) -> Generator[Scope]:
    """Set default arguments for functions while the context is open.

    Args:
        list_ops_or_scope: a list or tuple of decorated functions; or a scope, as an earlier `with arg_scope(...) as
            scope` gave it, which then holds instead of the current one.
        kwargs: the defaults. Scopes inside of scopes add to them.

    Raises:
        TypeError: neither a list, nor a tuple, nor a scope.
        ValueError: a function without `add_arg_scope`, or keyword arguments beside a scope.
    """
    make = _reused if isinstance(list_ops_or_scope, dict) else _added
    scope = make(list_ops_or_scope, kwargs)
    token = _current.set(scope)
    try:
        yield scope
    finally:
        _current.reset(token)


def current_arg_scope() -> Scope:
    """The defaults in force, by function key."""
    return _current.get() or {}


def has_arg_scope(func: Any) -> bool:
    """Whether the function was decorated with `add_arg_scope`."""
    return arg_scope_func_key(func) in _decorated


def arg_scoped_arguments(func: Any) -> tuple[str, ...]:
    """Names of the arguments of a decorated function that `arg_scope` can set: those with defaults."""
    _check_decorated(func)
    return _decorated[arg_scope_func_key(func)]


def arg_scope_func_key(op: Any) -> str:
    """The key under which scopes know a function."""
    return getattr(op, "_key_op", str(op))


def _reused(scope: Any, kwargs: dict[str, Any]) -> Scope:
    if kwargs:
        raise ValueError(
            refusal(
                f"arg_scope was given a scope and {', '.join(kwargs)}",
                "When re-using a scope the keyword arguments must be empty: it holds as it was",
                "Open a second arg_scope inside it for the functions to change",
            )
        )
    return dict(scope)


def _added(functions: Any, kwargs: dict[str, Any]) -> Scope:
    if not isinstance(functions, (list, tuple)):
        raise TypeError(
            refusal(
                f"arg_scope was given {functions!r}",
                "It takes a list or tuple of functions, or a scope (a dict)",
                "Write arg_scope([function], name=value)",
            )
        )
    scope = dict(current_arg_scope())
    for function in cast(Sequence[Any], functions):
        _check_decorated(function)
        key = arg_scope_func_key(function)
        scope[key] = scope.get(key, {}) | kwargs
    return scope


def _check_decorated(function: Any) -> None:
    if not has_arg_scope(function):
        raise ValueError(
            refusal(
                f"arg_scope was asked about {function!r}",
                "It is not decorated with @add_arg_scope, so it would not look up its defaults",
                "Decorate it with batchnorm.contrib.framework.add_arg_scope; for functions of tf_slim use "
                "tf_slim.arg_scope, which batch_norm obeys too",
            )
        )


def _slim() -> Any:
    """tf_slim's own arg_scope module, if somebody has imported it."""
    module = sys.modules.get("tf_slim.ops.arg_scope")
    return module if hasattr(module, "current_arg_scope") and hasattr(module, "add_arg_scope") else None
