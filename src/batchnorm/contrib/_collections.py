"""Where contrib's variables, updates and outputs are collected."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from batchnorm._engines.tensorflow.private import parts

__all__ = [
    "collect",
    "collect_output",
    "collect_variable",
    "model_variable_getter",
    "names_of",
    "variable_collections",
]

ALWAYS = (tf.compat.v1.GraphKeys.GLOBAL_VARIABLES, tf.compat.v1.GraphKeys.MODEL_VARIABLES)


def names_of(collections: Any) -> list[str]:
    """Collection names from None, one name, or a list of them."""
    if collections is None:
        return []
    return [collections] if isinstance(collections, str) else list(collections)


def variable_collections(variables_collections: Any, name: str) -> list[str]:
    """Those asked for a variable, by its own name if a dict gives them per variable."""
    if isinstance(variables_collections, dict):
        return names_of(variables_collections.get(name))
    return names_of(variables_collections)


def model_variable_getter(getter: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A custom getter that also puts each new variable among the model variables."""
    collections = dict.fromkeys([*(kwargs.pop("collections", None) or ()), *ALWAYS])
    return getter(*args, **kwargs, collections=list(collections))


def collect_variable(variables_collections: Any, name: str, variable: Any) -> None:
    """Add a variable that exists, or all its parts, to the collections asked for it."""
    for collection in variable_collections(variables_collections, name):
        members = tf.compat.v1.get_collection_ref(collection)
        for part in parts(variable):
            if not any(part is member for member in members):
                members.append(part)


def collect(collections: Any, element: Any) -> None:
    """Add an element to every collection named."""
    for collection in names_of(collections):
        tf.compat.v1.add_to_collection(collection, element)


def collect_output(collections: Any, scope_name: str, output: Any) -> None:
    """Add the output to the collections, with the scope's name as one of its `aliases`."""
    if not names_of(collections):
        return
    if not hasattr(output, "aliases"):
        output.aliases = []
    output.aliases.append(scope_name.removesuffix("/"))
    collect(collections, output)
