"""Configurations: writing what differs from the stock layer, and reading those of Keras 3, tf_keras and ours."""

import warnings
from typing import Any

from batchnorm.errors import refusal

__all__ = ["DEFAULTS", "plain", "translate"]

# The options that the stock layer lacks. A configuration names those that were used, so that a layer which asks for
# nothing beyond the stock layer has the configuration of one, and Keras can read it without this package.
DEFAULTS: dict[str, Any] = {
    "fused": None,
    "virtual_batch_size": None,
    "zero_debias_moving_mean": False,
    "variance": "population",
}


def plain(value: Any) -> Any:
    """Keras' tracked containers and our tuples as what JSON can hold."""
    if isinstance(value, dict):
        return dict(value)
    return list(value) if isinstance(value, list | tuple) else value


def translate(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as arguments of our layer.

    tf_keras writes two things in its own way: a mixed policy, and the axes of a layer with ghost batches once it is
    built, which it counts in the shape that has the ghosts as axis 1.
    """
    config = dict(config)
    dtype = config.get("dtype")
    if isinstance(dtype, dict) and dtype.get("class_name") == "Policy":
        config["dtype"] = dtype["config"]["name"]
    axis = config.get("axis")
    of_tf_keras = config.get("virtual_batch_size") is not None and "ghost_order" not in config
    # Axis 0 cannot be a channel axis there, so that all axes beyond 1 are the mark of a layer that was built.
    if of_tf_keras and isinstance(axis, list | tuple) and axis and all(each > 1 for each in axis):
        config["axis"] = [each - 1 for each in axis]
        warnings.warn(
            refusal(
                f"A tf_keras configuration with virtual_batch_size and axis={list(axis)} is read as that of a built layer",
                "tf_keras counts its axes in the shape that has the ghost batches as axis 1",
                f"Nothing is to be done if the input's own channel axes are {config['axis']}; otherwise construct the "
                "layer with the right axis",
            ),
            stacklevel=3,
        )
    return config
