"""The names that TensorFlow 1 gives to layers that have none."""

import re
from collections import Counter
from typing import Any
from weakref import WeakKeyDictionary

import tensorflow as tf

__all__ = ["snake_case", "unique_object_name"]

_object_names: WeakKeyDictionary[Any, Counter[str]] = WeakKeyDictionary()


def snake_case(class_name: str) -> str:
    """The name that TensorFlow gives the scope of a class: TpuBatchNormalization is tpu_batch_normalization, BNLayer
    bn_layer. Scopes must not begin with an underscore, so the name of a private class gets "private" in front."""
    words = re.sub(r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", class_name).lower()
    return "private" + words if words.startswith("_") else words


def unique_object_name(class_name: str) -> str:
    """The name of an unnamed layer object: the class in snake case, numbered from 1 in each graph."""
    base = snake_case(class_name)
    graph = tf.compat.v1.get_default_graph()
    names = _object_names.setdefault(graph, Counter())
    names[base] += 1
    return f"{base}_{names[base]}"
