"""Configurations: what ours adds to the stock layer's, and how those of tf_keras are read."""

import inspect
from typing import Any

import keras

from batchnorm.errors import format_error, warn_user
from batchnorm.keras.private import loads_whole_h5

__all__ = ["DEFAULTS", "plain", "serialize_adjustment", "translate"]

# The options that the stock layer lacks. A configuration names those that are used, so that a layer which
# asks for nothing beyond the stock layer has the configuration of one.
DEFAULTS: dict[str, Any] = {
    "fused": None,
    "virtual_batch_size": None,
    "zero_debias_moving_mean": False,
    "variance": "population",
    "ghost_remainder": "refuse",
    "ghost_averages": "step",
}
# What represents a variable in a configuration; a number would lack its place among the layer's weights.
VARIABLE = "variable"


def plain(value: Any) -> Any:
    """Keras' tracked containers, our tuples, and variables among renorm's bounds, in a form that JSON can hold."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, keras.Variable):
        array: Any = keras.ops.convert_to_numpy(value.value)
        return {VARIABLE: array.tolist()}
    return list(value) if isinstance(value, list | tuple) else value


def serialize_adjustment(function: Any) -> dict[str, Any]:
    """What a configuration needs to bring the function back; nothing, and a warning, if Keras cannot."""
    if function is None:
        return {}
    named = function if inspect.isfunction(function) else type(function)
    if keras.saving.get_registered_name(named) != named.__name__:
        return {"adjustment": keras.saving.serialize_keras_object(function)}
    warn_user(
        format_error(
            f"A layer with adjustment={function!r} is being saved or copied",
            "Keras cannot bring this function back, so the configuration leaves it out",
            "Register it with keras.saving.register_keras_serializable, or pass it again after loading",
        ),
    )
    return {}


def translate(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as arguments of our layer.

    tf_keras writes two things in its own way: a mixed policy, and the axes of a built layer with ghost
    batches, which it counts in the shape that has the ghosts as axis 1. Keras' loader of whole models in .h5 turns a
    list of one axis into an int and drops longer lists.

    Raises:
        ValueError: the loader has dropped the axes.
    """
    config = dict(config)
    whole_h5 = loads_whole_h5()
    if whole_h5 and "axis" not in config:
        raise ValueError(
            format_error(
                f"The layer {config.get('name')!r} of a whole model in .h5 was asked for",
                "It has several channel axes, but Keras' loader of such files drops lists of axes",
                "Construct the model with the axes and call its load_weights with this file, or save it as .keras",
            )
        )
    dtype = config.get("dtype")
    if isinstance(dtype, dict) and dtype.get("class_name") == "Policy":
        config["dtype"] = dtype["config"]["name"]
    axis = config.get("axis")
    if isinstance(config.get("renorm_clipping"), dict):
        config["renorm_clipping"] = {
            name: _read_bound(name, bound) for name, bound in config["renorm_clipping"].items()
        }
    of_tf_keras = config.get("virtual_batch_size") is not None and "ghost_order" not in config
    # An int is the axis of an unbuilt layer, unless it used to be a list: layers of whole models are built.
    built: list[Any] = list(axis) if isinstance(axis, list | tuple) else [axis] if whole_h5 else []  # pyright: ignore[reportUnknownArgumentType]
    # Axis 0 cannot be a channel axis there, so that all axes beyond 1 are the mark of a layer that was built.
    if of_tf_keras and built and all(each > 1 for each in built):
        config["axis"] = [each - 1 for each in built]
        warn_user(
            format_error(
                f"axis={built} of a tf_keras layer with ghost batches is read as {config['axis']}",
                "A built layer of tf_keras counts the ghost batches as axis 1, and this is taken for one",
                "Construct the layer with the right axis if these are not the channel axes of its inputs",
            ),
        )
    return config


def _read_bound(name: str, bound: Any) -> Any:
    """A bound on renorm's corrections, and what a configuration has in place of a variable as one."""
    if isinstance(bound, dict) and VARIABLE in bound:
        return keras.Variable(bound[VARIABLE], trainable=False, name=name)
    return bound
