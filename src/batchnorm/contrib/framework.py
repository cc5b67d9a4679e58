"""`tf.contrib.framework.arg_scope` and its companions: default arguments for functions, set for a block of code.

    with arg_scope([batch_norm], decay=0.9, is_training=training):
        y = batch_norm(x)

A function takes part once it is decorated with `add_arg_scope`. If tf_slim has been imported, the function also obeys
tf_slim's `arg_scope`. Scopes of both kinds nest: the inner one takes precedence, and the call's own arguments over
both. tf_slim's scopes treat our `batch_norm` and tf_slim's function of that name as one function: defaults that a
network sets for either apply to both.
"""

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Generator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

from batchnorm.errors import format_error

__all__ = [
    "add_arg_scope",
    "arg_scope",
    "arg_scope_func_key",
    "arg_scoped_arguments",
    "current_arg_scope",
    "has_arg_scope",
    "stand_in",
]

P = ParamSpec("P")
R = TypeVar("R")
Scope = dict[str, dict[str, Any]]

# Where tf_slim's functions can be found by name; programs may replace them.
SLIM_MODULES = ("tf_slim.layers.layers", "tf_slim.layers", "tf_slim")


class _Said(NamedTuple):
    """The defaults that our scopes set for one function, without those that tf_slim's inner scopes overrode."""

    defaults: dict[str, Any]
    slim: dict[str, Any]  # the defaults that tf_slim's scopes set at that time


class _State(NamedTuple):
    scope: Scope
    said: dict[str, _Said]


_current: ContextVar[_State | None] = ContextVar("batchnorm_arg_scope", default=None)
_decorated: dict[str, "_Scoped"] = {}


class _Scoped:
    """A function that looks up its defaults. It is an object because tf_slim first looks for `_key_op` on it.

    Args:
        namesake: the name of the tf_slim function that it can replace, or None.
    """

    def __init__(self, function: Callable[..., Any], key: str, namesake: str | None) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._bare = inspect.unwrap(function)
        self.key = key
        self.namesake = namesake
        self._slim_key: str | None = None

    @property
    def _key_op(self) -> str:
        """The key under which tf_slim's scopes know the function: its namesake's, or otherwise one registered here."""
        slim = _slim()
        if slim is None:
            return self.key
        if self.namesake is not None:
            self._slim_key = _key_in_slim(self.namesake) or self._slim_key
        if self._slim_key is None and not slim.has_arg_scope(self._bare):
            slim.add_arg_scope(self._bare)
        return self._slim_key or self.key

    def slim_defaults(self) -> dict[str, Any]:
        """The defaults that tf_slim's scopes set for the function."""
        slim = _slim()
        return {} if slim is None else slim.current_arg_scope().get(self._key_op, {})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        defaults = self.slim_defaults()
        said = _state().said.get(self.key)
        if said is not None:
            defaults = defaults | said.defaults | _news(said.slim, defaults)
        positional = list(inspect.signature(self._function).parameters)[: len(args)]
        defaults = {name: value for name, value in defaults.items() if name not in positional}
        return self._function(*args, **(defaults | kwargs))

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __getattr__(self, name: str) -> Any:
        """Other attributes of the function, such as the `__defaults__` that tf_slim's decorator reads."""
        if name == "_bare":  # not yet set: there is nothing to ask
            raise AttributeError(name)
        return getattr(self._bare, name)

    def __repr__(self) -> str:
        return f"<function {self._function.__qualname__}{inspect.signature(self._function)} with arg_scope>"

    def __reduce__(self) -> str:
        return self._function.__qualname__


def add_arg_scope(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that `arg_scope` can set its keyword arguments; returns the decorated function."""
    return _scoped(function, None)


def stand_in(namesake: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Like `add_arg_scope`, for a function that replaces tf_slim's of this name and obeys the defaults set for that."""
    return lambda function: _scoped(function, namesake)


@contextlib.contextmanager
def arg_scope(list_ops_or_scope: Any, **kwargs: Any) -> Generator[Scope]:
    """Set default arguments for functions while the context is open.

    Args:
        list_ops_or_scope: a list or tuple of decorated functions; or a scope, as an earlier `with arg_scope(...) as
            scope` gave it, which then replaces the current one.
        kwargs: the defaults. Nested scopes add to them.

    Yields:
        The scope, which a later `arg_scope` can open again.

    Raises:
        TypeError: the first argument is neither a list, nor a tuple, nor a scope.
        ValueError: a function without `add_arg_scope`, or keyword arguments together with a scope.

    Examples:
        >>> from batchnorm.contrib.framework import add_arg_scope, arg_scope
        >>> @add_arg_scope
        ... def scaled(x, factor=1.0):
        ...     return x * factor
        >>> with arg_scope([scaled], factor=2.0):
        ...     scaled(3.0), scaled(3.0, factor=5.0)
        (6.0, 15.0)
    """
    make = _reused if isinstance(list_ops_or_scope, dict) else _added
    state = make(list_ops_or_scope, kwargs)
    token = _current.set(state)
    try:
        yield state.scope
    finally:
        _current.reset(token)


def current_arg_scope() -> Scope:
    """The defaults in force, by function key.

    Examples:
        >>> from batchnorm.contrib.framework import arg_scope, current_arg_scope
        >>> from batchnorm.contrib.layers import batch_norm
        >>> with arg_scope([batch_norm], decay=0.9):
        ...     list(current_arg_scope().values())
        [{'decay': 0.9}]
    """
    return _state().scope


def has_arg_scope(func: Any) -> bool:
    """Whether the function was decorated with `add_arg_scope`."""
    return arg_scope_func_key(func) in _decorated


def arg_scoped_arguments(func: Any) -> tuple[str, ...]:
    """Names of the arguments of a decorated function that `arg_scope` can set: those with defaults.

    Raises:
        ValueError: a function without `add_arg_scope`.

    Examples:
        >>> from batchnorm.contrib.framework import arg_scoped_arguments, has_arg_scope
        >>> from batchnorm.contrib.layers import batch_norm
        >>> has_arg_scope(batch_norm), arg_scoped_arguments(batch_norm)[:3]
        (True, ('decay', 'center', 'scale'))
    """
    _check_decorated(func)
    takes = inspect.signature(_decorated[arg_scope_func_key(func)]).parameters.values()
    return tuple(parameter.name for parameter in takes if parameter.default is not parameter.empty)


def arg_scope_func_key(op: Any) -> str:
    """The key under which our scopes know a function."""
    while not isinstance(op, _Scoped) and hasattr(op, "__wrapped__"):
        op = op.__wrapped__
    return op.key if isinstance(op, _Scoped) else getattr(op, "_key_op", str(op))


def _scoped(function: Callable[P, R], namesake: str | None) -> Callable[P, R]:
    key = getattr(function, "_key_op", str(inspect.unwrap(function)))
    if isinstance(function, _Scoped):
        key, namesake = function.key, function.namesake
    made = _decorated[key] = _Scoped(function, key, namesake)
    return cast(Callable[P, R], made)


def _state() -> _State:
    return _current.get() or _State({}, {})


def _say(key: str, defaults: dict[str, Any]) -> _Said:
    function = _decorated.get(key)
    return _Said(defaults, {} if function is None else function.slim_defaults())


def _news(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The defaults that were added or changed since `before`."""
    return {name: value for name, value in now.items() if name not in before or before[name] is not value}


def _reused(scope: Any, kwargs: dict[str, Any]) -> _State:
    if kwargs:
        raise ValueError(
            format_error(
                f"arg_scope was given a scope and {', '.join(kwargs)}",
                "When re-using a scope the keyword arguments must be empty: it applies unchanged",
                "Open a second arg_scope inside it for the functions to change",
            )
        )
    return _State(dict(scope), {key: _say(key, defaults) for key, defaults in scope.items()})


def _added(functions: Any, kwargs: dict[str, Any]) -> _State:
    if not isinstance(functions, (list, tuple)):
        raise TypeError(
            format_error(
                f"arg_scope was given {functions!r}",
                "It takes a list or tuple of functions, or a scope (a dict)",
                "Write arg_scope([function], name=value)",
            )
        )
    state = _state()
    scope, said = dict(state.scope), dict(state.said)
    for function in cast(Sequence[Any], functions):
        _check_decorated(function)
        key = arg_scope_func_key(function)
        scope[key] = scope.get(key, {}) | kwargs
        held = said.get(key, _Said({}, {}))
        now = _say(key, kwargs)
        overruled = _news(held.slim, now.slim)
        kept = {name: value for name, value in held.defaults.items() if name not in overruled}
        said[key] = now._replace(defaults=kept | kwargs)
    return _State(scope, said)


def _check_decorated(function: Any) -> None:
    if not has_arg_scope(function):
        raise ValueError(
            format_error(
                f"arg_scope was asked about {function!r}",
                "It is not decorated with @add_arg_scope, so it would not look up its defaults",
                "Decorate it with batchnorm.contrib.framework.add_arg_scope; for functions of tf_slim use "
                "tf_slim.arg_scope, which batch_norm obeys too",
            )
        )


def _slim() -> Any:
    """tf_slim's own arg_scope module, if it has been imported."""
    module = sys.modules.get("tf_slim.ops.arg_scope")
    return module if hasattr(module, "current_arg_scope") and hasattr(module, "add_arg_scope") else None


def _key_in_slim(name: str) -> str | None:
    """The key of tf_slim's own function of this name, from any module in which programs have not replaced it."""
    for module in SLIM_MODULES:
        function = getattr(sys.modules.get(module), name, None)
        if getattr(inspect.unwrap(function), "__module__", None) == SLIM_MODULES[0]:  # pyright: ignore[reportArgumentType]
            return getattr(function, "_key_op", None)
    return None
