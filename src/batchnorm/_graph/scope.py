"""How a TensorFlow 1 layer finds its names: a variable scope, captured once, and the op scope that came with it."""

import contextlib
import re
from collections import Counter
from collections.abc import Generator
from typing import Any
from weakref import WeakKeyDictionary

import tensorflow as tf

__all__ = ["LayerScope", "unique_object_name"]

_object_names: WeakKeyDictionary[Any, Counter[str]] = WeakKeyDictionary()


def unique_object_name(class_name: str) -> str:
    """The name of an unnamed layer object: the class in snake case, numbered from 1 in each graph."""
    base = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", class_name).lower()
    graph = tf.compat.v1.get_default_graph()
    names = _object_names.setdefault(graph, Counter())
    names[base] += 1
    return f"{base}_{names[base]}"


class LayerScope:
    """The variable scope of one layer: settled by the first call, entered by each.

    Args:
        name: the layer's own name, opened as it is where variables are to be reused, and otherwise used as given
            (`scope`) or numbered (`default_name`).
        given: a scope or its name that was fixed at construction, or None.
        reuse: True, False, None or AUTO_REUSE, as `tf.compat.v1.variable_scope` takes it.
    """

    def __init__(self, name: str, given: Any, reuse: Any) -> None:
        self._default_name = name
        self._reuse = reuse
        self.scope: Any = None
        if given:
            with tf.compat.v1.variable_scope(given) as captured:
                self.scope = captured

    def settle(self, scope: Any = None) -> None:
        """Fix the scope now, unless it already is: `scope` where given, else the layer's own name."""
        if self.scope is not None:
            return
        if self._reuse:
            opened = tf.compat.v1.variable_scope(self._default_name if scope is None else scope)
        else:
            opened = tf.compat.v1.variable_scope(scope, default_name=self._default_name)
        with opened as captured:
            self.scope = captured

    @contextlib.contextmanager
    def enter(self, built: bool) -> Generator[Any]:
        """The variable scope and its op scope. A built layer only ever finds its own variables again."""
        reuse = True if built else self._reuse
        with (
            tf.compat.v1.variable_scope(self.scope, reuse=reuse, auxiliary_name_scope=False) as scope,
            tf.compat.v1.name_scope(scope.original_name_scope),
        ):
            yield scope
