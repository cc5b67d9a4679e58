"""contrib's own paths: variables made in its manner, and updates to collect as tensors or to run with the output."""

from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf

from batchnorm._engines.tensorflow import ops
from batchnorm._tf1.names import name_output
from batchnorm._tf1.normalize import Call, Contribution, adjustment_for, normalize
from batchnorm._tf1.recompute import is_recomputing, recall
from batchnorm._tf1.updates import FINAL, SHADOWS, apply_updates, updated_values
from batchnorm._tf1.variables import flat, snapshot
from batchnorm.contrib._arguments import Arguments, Path, channels_of, make_options, training_of
from batchnorm.contrib._collections import collect
from batchnorm.contrib._variables import make_variables
from batchnorm.errors import format_error

__all__ = ["normalize_directly"]


def normalize_directly(arguments: Arguments, path: Path, x: Any) -> Any:
    """y. The updates are collected, or run along with it where `updates_collections` is None."""
    axis, channels = channels_of(arguments, x)
    weights = _weights(arguments.batch_weights, x)
    training = training_of(arguments.is_training)
    options = make_options(arguments, path, axis, trains=training is not False)
    # The legacy path always kept gamma and beta in the input's dtype, even 16 bits; the arithmetic is wider.
    dtype = x.dtype.base_dtype if path is Path.LEGACY else ops.stat_dtype(x)
    gamma, beta, variables = make_variables(arguments, options, channels, dtype, ops.stat_dtype(x))
    adjustment = None
    if arguments.adjustment is not None and training is not False:
        adjustment = adjustment_for(arguments.adjustment, x, ops.stat_dtype(x))
    with tf.compat.v1.name_scope("read"):
        state = _read(variables)
        gamma, beta = (None if value is None else _wide(flat(value)) for value in (gamma, beta))
    read = state if training is False else recall(state)
    call = Call(x, gamma, beta, read, training, weights, adjustment)
    first = [state[slot] for slot in state if slot not in FINAL]
    in_graph = not tf.compat.v1.executing_eagerly_outside_functions()
    along = in_graph and arguments.updates_collections is None and not is_recomputing()

    def update(contribution: Contribution) -> list[Any]:
        return updated_values(options, variables, contribution(), first)

    def step() -> tuple[Any, Contribution | None]:
        y, contribution = normalize(options, call)
        if along and contribution is not None:
            y = _run_along(y, training, first, partial(update, contribution))
        return y, contribution

    y, contribution = _named(path, x.shape.rank, training, along, step)
    y.set_shape(x.shape)
    if is_recomputing():
        return y
    if contribution is not None and not in_graph:
        apply_updates(options, variables, contribution())
    elif contribution is not None and not along:
        for value in _to_collect(variables, training, first, partial(update, contribution)):
            collect(arguments.updates_collections, value)
    return y


def _weights(batch_weights: Any, x: Any) -> Any:
    """One weight for each example, in a shape that broadcasts to x."""
    if batch_weights is None:
        return None
    weights = tf.convert_to_tensor(batch_weights)
    if not x.shape[:1].is_compatible_with(weights.shape):
        raise ValueError(
            format_error(
                f"batch_weights of shape {weights.shape} were given with an input of shape {x.shape}",
                "There must be one weight for each example",
                "Pass a vector as long as the batch",
            )
        )
    return tf.reshape(tf.cast(weights, ops.stat_dtype(x)), [-1] + [1] * (x.shape.rank - 1))


def _read(variables: dict[str, Any]) -> dict[str, Any]:
    """The state that this call sees; renorm's is that before any update of the same run."""
    rest = {slot: value for slot, value in variables.items() if slot not in (*FINAL, *SHADOWS)}
    state = {slot: flat(variables[slot]) for slot in FINAL} | snapshot(rest)
    return {slot: _wide(value) for slot, value in state.items()}


def _wide(value: Any) -> Any:
    return tf.cast(value, ops.stat_dtype(value))


def _named(path: Path, rank: int, training: Any, along: bool, step: Callable[[], Any]) -> tuple[Any, Any]:
    """What `step` returns, with y under its historical name."""
    if path is Path.LEGACY:
        return name_output("batchnorm/add_1", step)
    if isinstance(training, bool):
        plain = "Identity" if along and training else "FusedBatchNormV3"
        return name_output("Reshape_1" if rank == 2 else plain, step)
    y, contribution = step()  # the conditionals give the names
    return (tf.identity(y, name="Reshape_1") if rank == 2 else y), contribution


def _run_along(y: Any, training: Any, first: list[Any], update: Callable[[], list[Any]]) -> Any:
    """y, which cannot be had without its updates."""

    def updated() -> Any:
        with tf.control_dependencies(update()):
            return tf.identity(y)

    if training is True:
        return updated()
    return tf.cond(_after(first, training), updated, lambda: tf.identity(y))


def _to_collect(
    variables: dict[str, Any], training: Any, first: list[Any], update: Callable[[], list[Any]]
) -> Any:
    """The new moving mean and variance, whose evaluation updates the variables."""

    def updated() -> list[Any]:
        return [tf.convert_to_tensor(value) for value in update()]

    def idle() -> list[Any]:
        return [tf.convert_to_tensor(variables[slot]) for slot in FINAL]

    return update() if training is True else tf.cond(_after(first, training), updated, idle)


def _after(first: list[Any], training: Any) -> Any:
    """The switch of a conditional, known once `first` was read: inside of one, TensorFlow 1 drops such orders."""
    if not first:
        return training
    with tf.control_dependencies(first):
        return tf.identity(training, name="training")
