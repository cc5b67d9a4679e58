"""The path on which contrib's function is the v1 layer, called in contrib's scope."""

from dataclasses import fields
from typing import Any

import tensorflow as tf

from batchnorm._tf1.training import resolve_training
from batchnorm.compat.v1._arguments import LayerArguments
from batchnorm.compat.v1.layers import BatchNormalization
from batchnorm.contrib._arguments import Arguments, channels_of
from batchnorm.contrib._collections import collect_variable
from batchnorm.contrib._variables import DEFAULT_INITIALIZERS

__all__ = ["normalize_via_v1_layer"]


def normalize_via_v1_layer(arguments: Arguments, x: Any, scope: Any) -> Any:
    """y, by a new layer whose variables are those of `scope`."""
    axis, _ = channels_of(arguments, x)
    initializers: dict[str, Any] = DEFAULT_INITIALIZERS | dict(arguments.param_initializers or {})
    regularizers = arguments.param_regularizers or {}
    layer = BatchNormalization(
        axis=axis,
        **{field.name: getattr(arguments, field.name) for field in fields(LayerArguments)},
        **{f"{name}_initializer": initializers[name] for name in DEFAULT_INITIALIZERS},
        beta_regularizer=regularizers.get("beta"),
        gamma_regularizer=regularizers.get("gamma"),
        name=scope.name,
        _scope=scope,
        _reuse=arguments.reuse,
    )
    training = resolve_training(arguments.is_training)
    y = layer(x, training=training)
    for name in ("moving_mean", "moving_variance", "beta", "gamma"):
        variable = getattr(layer, name)
        if variable is not None:
            collect_variable(arguments.variables_collections, name, variable)
    if arguments.renorm and training is True and not tf.executing_eagerly():
        # The original's update of the variance took this name before an activation could.
        tf.compat.v1.get_default_graph().unique_name("Relu")
    return y
