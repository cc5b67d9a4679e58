"""The v1 layer's variables: what it makes when it is built, and what it reports of them."""

from typing import Any

import tensorflow as tf

from batchnorm._core.state import slots
from batchnorm._graph.eager import active_tracker
from batchnorm._graph.objects import initializer
from batchnorm._graph.variables import (
    existing_variables,
    parts,
    regularization,
    square_root_of,
    statistic,
    weight,
)
from batchnorm.compat.v1._arguments import make_options

__all__ = ["make_variables"]


def make_variables(layer: Any, kept: list[int], axes: tuple[int, ...]) -> None:
    """Make the layer's parameters and moving statistics, in the order and the shapes of the original.

    Args:
        kept: the input's sizes with 1 off the channel axes.
        axes: the channel axes, non-negative.
    """
    if layer.virtual_batch_size is not None:
        kept.insert(1, 1)
    shape = [kept[axes[0]]] if len(axes) == 1 and layer.virtual_batch_size is None else kept
    if layer.scale:
        layer.gamma = _add_weight(layer, "gamma", shape)
    if layer.center:
        layer.beta = _add_weight(layer, "beta", shape)
    start = {
        "moving_mean": layer.moving_mean_initializer,
        "moving_variance": layer.moving_variance_initializer,
    }
    if layer.renorm and layer.renorm_form == "current":
        root = square_root_of(layer.moving_variance_initializer)
        start |= {"moving_stddev": root, "renorm_mean": layer.moving_mean_initializer, "renorm_stddev": root}
    for slot in slots(make_options(layer)):
        scalar = slot.endswith("_weight")
        made = statistic(slot, [] if scalar else shape, layer._dtype, start.get(slot, initializer("zeros")))
        setattr(layer, slot, made)
        layer._record.others.append(made)


def _add_weight(layer: Any, name: str, shape: list[int]) -> Any:
    known = existing_variables()
    made = weight(
        name,
        shape,
        layer._dtype,
        getattr(layer, f"{name}_initializer"),
        layer.trainable,
        getattr(layer, f"{name}_constraint"),
    )
    kept = parts(made)
    # A scope's custom getter may have decided that the variable is not to be trained.
    overruled = layer.trainable and not all(part.trainable for part in kept)
    (layer._record.others if overruled else layer._record.trainable).extend(kept)
    rule = getattr(layer, f"{name}_regularizer")
    if rule is not None:
        _regularize(layer, name, made, rule, is_new=not {part.name for part in kept} & known)
    return made


def _regularize(layer: Any, name: str, variable: Any, rule: Any, is_new: bool) -> None:
    tracker = active_tracker()
    if tracker is not None:
        tracker.add_regularizer(variable, rule)
    if tf.compat.v1.executing_eagerly_outside_functions():
        layer._record.losses.append(lambda: tf.add_n(regularization(name, variable, rule)))
    elif is_new:
        losses = regularization(name, variable, rule)
        for loss in losses:
            tf.compat.v1.add_to_collection(tf.compat.v1.GraphKeys.REGULARIZATION_LOSSES, loss)
        layer._record.losses += [lambda loss=loss: loss for loss in losses]
