"""The variables of one decorated object by their TensorFlow 1 names, in place of TensorFlow's own store."""

import contextlib
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from batchnorm._engines.tensorflow.private import scope_store, variable_stores
from batchnorm._tf1.eager import Tracker, active_tracker, tracking
from batchnorm.compat.v1.keras._request import Request, call_getter, check_fits, make
from batchnorm.compat.v1.keras._reuse import remember_reuse
from batchnorm.errors import format_error

__all__ = ["Owner", "VariableStore"]


@dataclass(frozen=True)
class Owner:
    """What the decorated object does by itself when its store grows.

    A tf.Module needs to do nothing: TensorFlow finds the variables in the store.

    Attributes:
        changing: context in which the object may adopt variables and layers.
        found: called with each variable that a call uses.
        added_layer: called with each nested layer; returns whether the object counts the layer's losses itself.
        added_loss: called with each regularization loss.
    """

    changing: Callable[[], Any] = contextlib.nullcontext
    found: Callable[[str, Any], None] = lambda name, variable: None
    added_layer: Callable[[str, Any], bool] = lambda name, layer: False
    added_loss: Callable[[Callable[[], Any]], None] = lambda loss: None


class VariableStore(Tracker, tf.Module):
    """Variables, nested layers and regularization losses of one object. Attribute names are checkpoint keys.

    `tf.Module.__init__` is left out: it would take an op name from the graph.
    """

    # Whether eager variables are kept here: TensorFlow's templates ask, and so do layers of other packages.
    _store_eager_variables = True

    _owner: Owner
    _regularizers: dict[str, Callable[[], Any]]
    _layer_variables: list[Any]
    _home: Any
    _lock: Any

    def __init__(self, owner: Owner) -> None:
        self._vars: dict[str, Any] = {}
        self._layers: dict[str, Any] = {}
        self._set_plainly(_owner=owner, _regularizers={}, _layer_variables=[], _home=None)
        self._set_plainly(_lock=threading.RLock())

    def _set_plainly(self, **attributes: Any) -> None:
        """Set attributes that checkpoints do not follow: nothing in them has a state of its own."""
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    @contextlib.contextmanager
    def scope(self) -> Generator[None]:
        """Serve every `get_variable` below, with default names counted as if this were the only call."""
        outermost = active_tracker() is None
        current = tf.compat.v1.get_variable_scope()
        stores = variable_stores()
        remember_reuse()
        # A scope that is entered as an object gives the counters of default names back as they were.
        again = tf.compat.v1.variable_scope(
            current, constraint=current.constraint, auxiliary_name_scope=False
        )
        stores.insert(0, self)
        try:
            with tracking(self), self._owner.changing(), again:
                if outermost:
                    scope_store().close_variable_subscopes(current.name or None)
                yield
                self._find_layer_variables()
        finally:
            # The replicas of a strategy share a graph and may leave it in a different order than they entered it.
            stores.remove(self)

    def get_variable(self, name: str, *args: Any, custom_getter: Any = None, **kwargs: Any) -> Any:
        """`tf.compat.v1.get_variable` by the full name: the variable of that name, made if it is missing.

        Raises:
            ValueError: it has another shape or dtype, is missing under `reuse=True`, or was asked for with a
                partitioner.
        """
        request = Request(name, *args, **kwargs)
        if tf.executing_eagerly() and tf.compat.v1.get_variable_scope().reuse is True:
            request = replace(request, reuse=True)  # TensorFlow says False whatever the scope says
        if request.trainable is None:
            request = replace(
                request, trainable=request.synchronization != tf.VariableSynchronization.ON_READ
            )
        request = replace(request, reuse=request.reuse or tf.compat.v1.AUTO_REUSE)
        if custom_getter is not None:
            return call_getter(custom_getter, lambda *a, **k: self._get(Request(*a, **k)), request)
        return self._get(request)

    def _get(self, request: Request) -> Any:
        asked = f"Variable {request.name!r} was asked for"
        if request.partitioner is not None:
            raise ValueError(
                format_error(
                    f"{asked} with a partitioner ({request.partitioner!r})",
                    "A tracked object keeps each variable in one piece",
                    "Leave the partitioner out, also of the enclosing variable scopes",
                )
            )
        self._check_home(asked)
        variable = self._vars.get(request.name)
        if variable is not None:
            check_fits(request, variable)
        elif request.reuse is True:
            raise ValueError(
                format_error(
                    f"{asked} with reuse=True",
                    "It does not exist: only calls of this object's own decorated methods make its variables",
                    "Call what makes it first, or open the scope with reuse=tf.compat.v1.AUTO_REUSE",
                )
            )
        else:
            variable = self._keep(self._vars, request.name, make(request))
            if request.regularizer is not None:
                self.add_regularizer(variable, request.regularizer)
        with self._lock:
            self._owner.found(request.name, variable)
        return variable

    def _keep(self, known: dict[str, Any], name: str, made: Any) -> Any:
        """Store what was made, unless another thread was faster; that one's is returned then.

        Nothing is made under the lock: while a replica of a strategy makes a variable, others may run.
        """
        with self._lock:
            if name not in known:
                known[name] = made
            return known[name]

    def _check_home(self, asked: str) -> None:
        """Raise ValueError if the other variables of the object live in another graph."""
        with tf.init_scope():
            home = "eager" if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        if self._home is None:
            self._set_plainly(_home=home)
        elif self._home is not home:
            raise ValueError(
                format_error(
                    f"{asked} in {_describe(home)}",
                    f"The object's variables were made in {_describe(self._home)} and exist only there",
                    "Use one object for each graph",
                )
            )

    def add_regularizer(self, variable: Any, regularizer: Callable[[Any], Any]) -> None:
        """Count `regularizer(variable)` as the variable's loss, replacing any that it had."""
        self._add_loss(variable.name.removesuffix(":0"), lambda: regularizer(variable))

    def _add_loss(self, name: str, loss: Callable[[], Any]) -> None:
        with self._lock:
            is_new = name not in self._regularizers
            self._regularizers[name] = loss
            if is_new:
                self._owner.added_loss(lambda: self._regularizers[name]())

    def get_regularization_losses(self, without: Any = ()) -> list[Any]:
        """The losses as they are now, one for each regularized variable and nested layer not in `without`."""
        losses = [loss() for name, loss in self._regularizers.items() if name not in without]
        return [loss for loss in losses if loss is not None]

    def get_or_create_layer(self, name: str, create: Callable[[], Any]) -> Any:
        """The nested layer of that name, made by the first call."""
        if name not in self._layers:
            with tf.init_scope():
                made = create()
            layer = self._keep(self._layers, name, made)
            with self._lock:
                counted = self._owner.added_layer(name, layer)
            if not counted and hasattr(layer, "losses"):
                self._add_loss(
                    name, lambda: tf.add_n(list(layer.losses)) if layer.losses else tf.constant(0.0)
                )
        return self._layers[name]

    def _find_layer_variables(self) -> None:
        """Expose the variables of nested layers: each kind of owner looks only into layers of its own kind."""
        hidden: list[Any] = []
        for name, layer in self._layers.items():
            # In the order in which TensorFlow lists a Keras 2 layer's own.
            variables: list[Any] = sorted(
                getattr(layer, "variables", ()), key=lambda variable: variable.trainable
            )
            for variable in variables:
                if isinstance(variable, tf.Variable):
                    self._owner.found(f"{name}/{variable.name.removesuffix(':0')}", variable)
                elif (held := _held(variable)) is not None:
                    hidden.append(held)
        self._set_plainly(_layer_variables=hidden)


def _held(variable: Any) -> Any:
    """TensorFlow's variable inside one of Keras 3, which is imported by now."""
    from batchnorm.keras.private import held

    return held(variable)


def _describe(home: Any) -> str:
    return "eager code" if home == "eager" else f"the graph {home!r}"
