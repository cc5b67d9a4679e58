"""The layer's variables: their shapes, their start, and what a training step does to them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from batchnorm._core.engine import Batch, Inputs, Ops
from batchnorm._core.state import SCALARS, moved, rules, slots
from batchnorm._faces.start import initializers
from batchnorm.keras._backend import backend
from batchnorm.options import Options

__all__ = ["advance", "create", "inputs_of", "read", "state_names", "variable_shape"]

Tensor = Any
Variable = Any
Initializer = Callable[..., Tensor]

# Slots of the core's state whose variables have a longer name; the others have the slot's.
NAMES = {"biased": "moving_mean_biased", "local_step": "moving_mean_local_step"}


def state_names(options: Options) -> dict[str, str]:
    """The variable's name for each slot of the state, in order of creation."""
    return {slot: NAMES.get(slot, slot) for slot in slots(options)}


def variable_shape(options: Options, axes: Sequence[int], shape: Sequence[int | None]) -> tuple[int, ...]:
    """The shape that Keras 2 gives: flat for one axis, ones off several, one more for ghosts."""
    sizes = [shape[axis] or 0 for axis in axes]
    if options.ghost is None and len(sizes) == 1:
        return tuple(sizes)
    spread = [1] * len(shape)
    for axis, size in zip(axes, sizes, strict=True):
        spread[axis] = size
    if options.ghost is not None:
        spread.insert(1, 1)
    return tuple(spread)


def create(layer: Any, options: Options, shape: tuple[int, ...]) -> None:
    """Add gamma, beta and the moving statistics to the layer, each as the attribute of its name.

    Parameters have the dtype of the layer's variables, statistics at least 32 bits.
    """
    for name, wanted in (("gamma", options.with_gamma), ("beta", options.with_beta)):
        if wanted:
            parts = ("initializer", "regularizer", "constraint")
            how = {part: getattr(layer, f"{name}_{part}") for part in parts}
            setattr(
                layer, name, layer.add_weight(shape=shape, name=name, trainable=True, autocast=False, **how)
            )
    # Variances of 16-bit numbers may exceed 16 bits, and small shares of new values would be rounded away.
    dtype = "float64" if layer.variable_dtype == "float64" else "float32"
    starts = initializers(layer.moving_mean_initializer, layer.moving_variance_initializer, _root_of)
    for slot, name in state_names(options).items():
        weight = layer.add_weight(
            shape=() if slot in SCALARS else shape,
            name=name,
            initializer=starts.get(slot, "zeros"),
            dtype=dtype,
            trainable=False,
            autocast=False,
        )
        setattr(layer, name, weight)


def read(ops: Ops[Tensor], variable: Variable, dtype: Any) -> Tensor:
    """The current value as the core takes it: in the statistics' dtype, and flat unless it is a scalar."""
    value = backend().value(variable)
    value = value if ops.dtype(value) == dtype else ops.cast(value, dtype)
    return value if len(variable.shape) <= 1 else ops.reshape(value, (-1,))


def inputs_of(
    layer: Any, x: Tensor, weights: Tensor | None, options: Options, residual: Tensor | None
) -> Inputs[Tensor]:
    """What a step of the layer takes: x, what the variables hold, and what the call brings."""
    tools = backend()
    ops = tools.engine.ops
    dtype = ops.stat_dtype(x)

    def of(name: str) -> Tensor:
        return read(ops, getattr(layer, name), dtype)

    gamma = None if layer.gamma is None else of("gamma")
    beta = None if layer.beta is None else of("beta")
    state = {slot: of(name) for slot, name in state_names(options).items()}
    if residual is not None:
        residual = tools.spread_residual(ops.cast(residual, ops.dtype(x)), x)
    return Inputs(x, gamma, beta, weights, state, residual=residual)


def advance(
    ops: Ops[Tensor], options: Options, variables: Mapping[str, Variable], batch: Batch[Tensor], dtype: Any
) -> None:
    """Apply one training step to each variable, always starting from its current value."""
    tools = backend()
    if tools.advance(options, variables, batch, dtype):
        return
    after: dict[str, Tensor] = {}
    for rule in rules(options):
        variable = variables[rule.slot]
        current = after[rule.slot] = read(ops, variable, dtype)
        value = after[rule.slot] = moved(ops, options, rule, current, after, batch)
        tools.assign(variable, value if len(variable.shape) <= 1 else ops.reshape(value, variable.shape))


def _root_of(initializer: Initializer) -> Initializer:
    def root(shape: Any, dtype: Any = None) -> Tensor:
        return keras.ops.sqrt(initializer(shape, dtype=dtype))

    return root
