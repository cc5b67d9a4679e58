"""The v1 layer's variables, asked for as the original asks for them: a subclass may override `add_weight`."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from batchnorm._core.state import SCALARS, slots
from batchnorm._faces.start import initializers
from batchnorm._tf1.objects import for_variables, initializer
from batchnorm._tf1.variables import square_root_of
from batchnorm.compat.v1._arguments import make_options

__all__ = ["make_variables"]


def make_variables(layer: Any, shape: Sequence[int]) -> None:
    """Make the layer's parameters and moving statistics, in the order of the original."""
    for name, wanted in (("gamma", layer.scale), ("beta", layer.center)):
        if wanted:
            made = layer.add_weight(
                name=name,
                shape=shape,
                dtype=layer._param_dtype,
                initializer=getattr(layer, f"{name}_initializer"),
                regularizer=for_variables(getattr(layer, f"{name}_regularizer")),
                constraint=for_variables(getattr(layer, f"{name}_constraint")),
                trainable=True,
                experimental_autocast=False,
            )
            setattr(layer, name, made)
    debiased = layer.renorm_form == "debiased"
    starts = initializers(
        layer.moving_mean_initializer, layer.moving_variance_initializer, square_root_of, debiased
    )
    # The statistics are never partitioned.
    layer._set_scope()
    partitioner = layer._scope.partitioner
    layer._scope.set_partitioner(None)
    try:
        for slot in slots(make_options(layer)):
            made = layer.add_weight(
                name=slot,
                shape=() if slot in SCALARS else shape,
                dtype=layer._param_dtype,
                initializer=starts.get(slot, initializer("zeros")),
                synchronization=tf.VariableSynchronization.ON_READ,
                trainable=False,
                aggregation=tf.VariableAggregation.MEAN,
                experimental_autocast=False,
            )
            setattr(layer, slot, made)
    finally:
        layer._scope.set_partitioner(partitioner)
