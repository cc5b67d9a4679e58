"""The variables of contrib's own paths."""

from typing import Any, NamedTuple

import tensorflow as tf

from batchnorm._core.state import SCALARS, slots
from batchnorm._faces.start import initializers
from batchnorm._tf1.objects import for_variables, initializer, regularizer
from batchnorm._tf1.updates import FINAL, SHADOWS
from batchnorm._tf1.variables import square_root_of, statistic
from batchnorm.contrib._arguments import Arguments
from batchnorm.contrib._collections import ALWAYS, variable_collections
from batchnorm.options import Options

__all__ = ["DEFAULT_INITIALIZERS", "Variables", "make_variables"]

DEFAULT_INITIALIZERS = {"beta": "zeros", "gamma": "ones", "moving_mean": "zeros", "moving_variance": "ones"}


class Variables(NamedTuple):
    """gamma and beta, None if they are not asked for, and the moving statistics by slot."""

    gamma: Any
    beta: Any
    state: dict[str, Any]


def make_variables(
    arguments: Arguments, options: Options, channels: int, dtype: Any, stat_dtype: Any
) -> Variables:
    """Find or make them in the current variable scope: beta, gamma, then the statistics, which have their own dtype."""
    beta = _parameter(arguments, "beta", channels, dtype) if options.with_beta else None
    gamma = _parameter(arguments, "gamma", channels, dtype) if options.with_gamma else None
    # Re-entering the scope takes an op scope of its name, which the historical numbers of later ones depend on.
    with tf.compat.v1.variable_scope(tf.compat.v1.get_variable_scope()):
        state = _statistics(arguments, options, channels, stat_dtype)
    if options.debias_mean:
        # Their names have the full name of the mean inside the current scope, which so appears twice.
        full_name = state["moving_mean"].name.partition(":")[0]
        with tf.compat.v1.variable_scope(full_name):
            zeros = initializer("zeros")
            state["biased"] = statistic("biased", [channels], stat_dtype, zeros)
            state["local_step"] = statistic("local_step", [], stat_dtype, zeros)
    return Variables(gamma, beta, state)


def _parameter(arguments: Arguments, name: str, channels: int, dtype: Any) -> Any:
    own = regularizer((arguments.param_regularizers or {}).get(name))
    return tf.compat.v1.get_variable(
        name,
        shape=[channels],
        dtype=dtype,
        initializer=_initializer(arguments, name),
        regularizer=for_variables(own or tf.compat.v1.get_variable_scope().regularizer),
        trainable=arguments.trainable,
        collections=[*variable_collections(arguments.variables_collections, name), *ALWAYS],
    )


def _statistics(arguments: Arguments, options: Options, channels: int, dtype: Any) -> dict[str, Any]:
    mean, variance = (_initializer(arguments, slot) for slot in FINAL)
    starts = initializers(mean, variance, square_root_of, arguments.renorm_form == "debiased")
    state: dict[str, Any] = {}
    for slot in slots(options):
        if slot in SHADOWS:
            continue
        collections = None
        if slot in FINAL:
            collections = [*variable_collections(arguments.variables_collections, slot), *ALWAYS]
        shape = [] if slot in SCALARS else [channels]
        state[slot] = statistic(slot, shape, dtype, starts.get(slot, initializer("zeros")), collections)
    return state


def _initializer(arguments: Arguments, name: str) -> Any:
    return initializer((arguments.param_initializers or {}).get(name, DEFAULT_INITIALIZERS[name]))
