"""Keeps `reuse=True` of variable scopes in eager code: a missing variable is an error there as in a graph."""

import sys
from typing import Any

from batchnorm._engines.tensorflow.private import ScopeStore, opens_for_reuse, scope_store
from batchnorm._tf1.eager import Tracker, active_tracker

__all__ = ["remember_reuse"]


class _RememberingScopes(ScopeStore):
    """TensorFlow's record of the current scope, which also looks at how the scope was opened.

    A scope made in eager code says AUTO_REUSE whatever was requested, and passes nothing on to the variable
    store. Only the context manager that opens it still knows, and that is the caller of this assignment.
    """

    @property
    def current_scope(self) -> Any:
        return self.__dict__["current_scope"]

    @current_scope.setter
    def current_scope(self, scope: Any) -> None:
        opener = sys._getframe(1).f_locals.get("self")  # pyright: ignore[reportPrivateUsage]
        if isinstance(active_tracker(), Tracker) and opens_for_reuse(opener, scope):
            scope.reuse_variables()
        self.__dict__["current_scope"] = scope


def remember_reuse() -> None:
    """Let the current graph's scopes keep their `reuse=True` while a tracker is active."""
    scopes = scope_store()
    if type(scopes) is not _RememberingScopes:
        # Never make a second record: open context managers keep the one they found.
        scopes.__class__ = _RememberingScopes
