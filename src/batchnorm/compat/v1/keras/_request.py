"""One call of `get_variable`: what is asked for, whether a variable fits, and how to make one that does."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from batchnorm.errors import format_error

__all__ = ["Request", "call_getter", "check_fits", "make"]


@dataclass(frozen=True)
class Request:
    """The arguments of `get_variable`, in its order, with the full name.

    `collections` and `use_resource` are ignored: no collection is written, and all variables are resources.
    """

    name: str
    shape: Any = None
    dtype: Any = tf.float32
    initializer: Any = None
    regularizer: Any = None
    reuse: Any = None
    trainable: bool | None = None
    collections: Any = None
    caching_device: Any = None
    partitioner: Any = None
    validate_shape: bool = True
    use_resource: bool | None = None
    constraint: Any = None
    synchronization: Any = tf.VariableSynchronization.AUTO
    aggregation: Any = tf.compat.v1.VariableAggregation.NONE


def call_getter(custom_getter: Any, getter: Callable[..., Any], request: Request) -> Any:
    """Leave the request to a custom getter, as `get_variable` does."""
    if not callable(custom_getter):
        raise ValueError(
            format_error(
                f"Variable {request.name!r} was asked for with a custom_getter which is not callable: "
                f"{custom_getter!r}",
                "It is called in place of get_variable",
                "Pass a function (getter, *args, **kwargs) that calls getter(*args, **kwargs)",
            )
        )
    arguments = dict(vars(request))
    # Getters written before get_variable knew constraints do not take them.
    parameters = inspect.signature(custom_getter).parameters.values()
    if not any(p.name == "constraint" or p.kind is p.VAR_KEYWORD for p in parameters):
        del arguments["constraint"]
    return custom_getter(getter, **arguments)


def check_fits(request: Request, variable: Any) -> None:
    """Raise ValueError if the variable has another shape or dtype than asked for."""
    shape: Any = request.shape
    dtype: Any = request.dtype
    if request.initializer is not None and not callable(request.initializer):
        shape, dtype = None, None  # a constant brings its own; asking for them besides is refused elsewhere
    asked = f"Variable {request.name!r} was asked for with"
    remedy = "Ask for what it has, or use another name or variable scope"
    if not tf.TensorShape(shape).is_compatible_with(variable.shape):
        why = f"It exists already and has shape {variable.shape}"
        raise ValueError(format_error(f"{asked} shape {tf.TensorShape(shape)}", why, remedy))
    if dtype is not None and tf.as_dtype(dtype).base_dtype != variable.dtype.base_dtype:
        why = f"It exists already and has dtype {variable.dtype.base_dtype.name}"
        raise ValueError(format_error(f"{asked} dtype {tf.as_dtype(dtype).base_dtype.name}", why, remedy))


def make(request: Request) -> Any:
    """A new variable outside of every function graph, so that each trace finds it."""
    initial, dtype = _initial_value(request)
    with tf.init_scope():
        return tf.Variable(
            initial,
            name=request.name,
            dtype=dtype,
            trainable=request.trainable,
            caching_device=request.caching_device,
            validate_shape=request.validate_shape,
            constraint=request.constraint,
            synchronization=request.synchronization,
            aggregation=request.aggregation,
        )


def _initial_value(request: Request) -> tuple[Any, Any]:
    """What `tf.Variable` starts from, a value or a function, and the dtype unless the value settles it."""
    initializer, dtype = request.initializer, tf.as_dtype(request.dtype).base_dtype
    shape = tf.TensorShape(request.shape)
    asked = (
        f"Variable {request.name!r} was asked for with shape {request.shape} and initializer {initializer!r}"
    )
    if initializer is not None and not callable(initializer):
        if request.shape is not None:
            raise ValueError(format_error(asked, "A constant has a shape of its own", "Leave the shape out"))
        return _outside_functions(initializer, asked), None
    if initializer is None:
        initializer = _default_initializer(dtype, asked)
    if isinstance(initializer, type):
        initializer = initializer()
    if shape.is_fully_defined():
        extra = {"partition_info": None} if "partition_info" in _parameters(initializer) else {}
        return functools.partial(initializer, shape.as_list(), dtype=dtype, **extra), dtype
    needed = [
        p
        for p in _parameters(initializer).values()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    if request.shape is not None or needed:
        raise ValueError(
            format_error(
                asked, "It is new, and its initializer needs a shape without unknown sizes", "Pass the shape"
            )
        )
    return initializer, None


def _parameters(function: Any) -> Any:
    try:
        return inspect.signature(function).parameters
    except ValueError:  # a function of C has no signature to ask for
        return {}


def _outside_functions(value: Any, asked: str) -> Any:
    """The value of a tensor that a function being traced holds; others are returned as they are."""
    if not tf.is_tensor(value) or tf.executing_eagerly() or not getattr(value, "graph", None):
        return value
    if not value.graph.building_function:
        return value
    known = tf.get_static_value(value)
    if known is None:
        raise ValueError(
            format_error(
                asked,
                "The variable is made outside of the function being traced, where this tensor has no value",
                "Pass a number, an array, or a function that computes the value",
            )
        )
    return known


def _default_initializer(dtype: Any, asked: str) -> Any:
    if dtype.is_floating:
        return tf.compat.v1.glorot_uniform_initializer()
    if dtype.is_integer or dtype.is_bool or dtype == tf.string:
        return tf.compat.v1.zeros_initializer()
    raise ValueError(
        format_error(asked, f"There is no default for dtype {dtype.name}", "Pass an initializer")
    )
