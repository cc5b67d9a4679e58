"""The path on which contrib's function is the v1 layer, called in contrib's scope."""

from typing import Any

import tensorflow as tf

from batchnorm._graph.training import resolve_training
from batchnorm.compat.v1.layers import BatchNormalization
from batchnorm.contrib._arguments import Asked, channels_of
from batchnorm.contrib._collections import collect_variable
from batchnorm.contrib._variables import DEFAULT_INITIALIZERS

__all__ = ["through_layer"]


def through_layer(asked: Asked, x: Any, scope: Any) -> Any:
    """y, by a new layer whose variables are those of `scope`."""
    axis, _ = channels_of(asked, x)
    initializers = DEFAULT_INITIALIZERS | dict(asked.param_initializers or {})
    regularizers = asked.param_regularizers or {}
    layer = BatchNormalization(
        axis=axis,
        momentum=asked.decay,
        epsilon=asked.epsilon,
        center=asked.center,
        scale=asked.scale,
        beta_initializer=initializers["beta"],
        gamma_initializer=initializers["gamma"],
        moving_mean_initializer=initializers["moving_mean"],
        moving_variance_initializer=initializers["moving_variance"],
        beta_regularizer=regularizers.get("beta"),
        gamma_regularizer=regularizers.get("gamma"),
        renorm=asked.renorm,
        renorm_clipping=asked.renorm_clipping,
        renorm_momentum=asked.renorm_decay,
        renorm_form=asked.renorm_form,
        fused=asked.fused,
        trainable=asked.trainable,
        adjustment=asked.adjustment,
        name=scope.name,
        _scope=scope,
        _reuse=asked.reuse,
    )
    training = resolve_training(asked.is_training)
    y = layer(x, training=training)
    for name in ("moving_mean", "moving_variance", "beta", "gamma"):
        variable = getattr(layer, name)
        if variable is not None:
            collect_variable(asked.variables_collections, name, variable)
    if asked.renorm and training is True and not tf.executing_eagerly():
        # The original's update of the variance took this name before an activation could.
        tf.compat.v1.get_default_graph().unique_name("Relu")
    return y
