"""The methods between input and output that a subclass of the v1 layer may override, called when the original does.

As long as nothing is overridden, none of this runs, and the core takes its fastest path.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from batchnorm._core.engine import Batch, Moments
from batchnorm._core.renorm import correct, deviation
from batchnorm._core.state import Rule, decrement
from batchnorm._engines.tensorflow import engine, ops
from batchnorm._engines.tensorflow.private import is_ref
from batchnorm._faces.fused import refuse_fused
from batchnorm._tf1.scalars import in_dtype
from batchnorm._tf1.variables import flat
from batchnorm.compat.v1._arguments import make_options, parameter_dtype
from batchnorm.errors import format_error
from batchnorm.layout import plan_layout

__all__ = ["ASSIGNMENTS", "MOMENTS", "RENORM", "Hooks", "overrides", "with_mask", "with_size"]

Tensor = Any

MOMENTS = ("_moments", "_calculate_mean_and_var", "_no_sync_calculate_mean_and_var")
ASSIGNMENTS = ("_assign_moving_average", "_assign_new_value")
RENORM = ("_renorm_correction_and_moments",)


class Hooks:
    """The layer's own implementation of each hook, for subclasses that call `super()`."""

    # Whether a layer that is not trainable infers, as in Keras 2. Subclasses may ask for it.
    _USE_V2_BEHAVIOR = False

    @property
    def _param_dtype(self: Any) -> Any:
        """The dtype of the variables, in which the statistics are computed."""
        return parameter_dtype(self.dtype)

    def _get_training_value(self: Any, training: Any = None) -> Any:
        """What decides whether the call trains; None stands for the graph's learning phase."""
        if self._USE_V2_BEHAVIOR and not self.trainable:
            return False
        if training is None and hasattr(self, "_learning_phase"):
            return self._learning_phase()
        return training

    def _support_zero_size_input(self) -> bool:
        """Whether the hooks are told how many examples there are. (An empty batch is never harmful.)"""
        return self._support_zero_size_batch_input()

    def _support_zero_size_batch_input(self) -> bool:
        """TensorFlow 1's name for `_support_zero_size_input`."""
        if not tf.distribute.has_strategy():
            return False
        extended: Any = tf.distribute.get_strategy().extended
        older = getattr(extended, "experimental_enable_get_next_as_optional", False)
        return bool(getattr(extended, "enable_partial_batch_handling", older))

    def _raise_if_fused_cannot_be_used(self: Any) -> None:
        """Raise ValueError if the original had no fused kernel, whatever the input's rank."""
        refuse_fused(self)

    def _fused_can_be_used(self) -> bool:
        try:
            self._raise_if_fused_cannot_be_used()
        except ValueError:
            return False
        return True

    def _moments(
        self, inputs: Tensor, reduction_axes: Sequence[int], keep_dims: bool, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and variance of a batch that is not normalized by the fused kernel.

        Args:
            inputs: in the dtype of the parameters; with ghost batches [examples in a group, groups, ...].
            reduction_axes: axes to compute them over.
            keep_dims: whether these axes stay, with size 1.
            mask: weights of the positions, with the inputs' shape without the last axis.
        """
        return with_mask(self._calculate_mean_and_var, inputs, reduction_axes, keep_dims, mask=mask)

    def _calculate_mean_and_var(
        self, inputs: Tensor, reduction_axes: Sequence[int], keep_dims: bool, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return with_mask(self._no_sync_calculate_mean_and_var, inputs, reduction_axes, keep_dims, mask=mask)

    def _no_sync_calculate_mean_and_var(
        self, inputs: Tensor, reduction_axes: Sequence[int], keep_dims: bool, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """In operations that TensorFlow differentiates by itself."""
        rank = inputs.shape.rank
        reduced = {axis % rank for axis in reduction_axes}
        kept = [axis for axis in range(rank) if axis not in reduced]
        layout = plan_layout(ops.shape(inputs), kept)
        weights = None if mask is None else tf.expand_dims(tf.cast(mask, inputs.dtype), -1)
        moments = engine.composed.moments(inputs, weights, layout)
        sizes = ops.shape(inputs)
        shape = [1 if axis in reduced else sizes[axis] for axis in range(rank)]
        if not keep_dims:
            shape = [sizes[axis] for axis in kept]
        return ops.reshape(moments.mean, shape), ops.reshape(moments.variance, shape)

    def _renorm_correction_and_moments(
        self: Any, mean: Tensor, variance: Tensor, training: Any, inputs_size: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """r and d of batch renormalization, and the moments again; the renorm averages are updated before these."""
        options = in_dtype(make_options(self, self._record.axes), mean.dtype)
        slots = ("renorm_mean", "renorm_stddev")
        batch = Batch(flat(mean), flat(variance), flat(variance), None)
        state = {slot: flat(getattr(self, slot)) for slot in slots}
        shape = tf.shape(mean)
        stddev = tf.reshape(deviation(ops, options, batch), shape)
        layout = plan_layout((1, *ops.shape(batch.mean)), (1,))
        own, spread = (ops.reshape(value, (1, -1)) for value in batch[:2])
        moments = Moments(1.0, 1.0, own, spread, own, ops.zeros_like(own))
        corrections: Any = correct(ops, options, moments, batch, state, layout)
        r, d = (tf.reshape(value, shape) for value in corrections)
        moved: list[Any] = []
        with tf.control_dependencies([r, d]):
            for slot, value in zip(slots, (mean, stddev), strict=True):
                moved.append(
                    self._assign_if(training, getattr(self, slot), value, self.renorm_momentum, inputs_size)
                )
        with tf.control_dependencies(moved):
            mean, variance = tf.identity(mean), tf.identity(variance)
        if not isinstance(training, bool):
            r = tf.where(training, r, tf.ones_like(r))
            d = tf.where(training, d, tf.zeros_like(d))
        return r, d, mean, variance

    def _assign_moving_average(
        self, variable: Any, value: Tensor, momentum: Any, inputs_size: Tensor | None = None
    ) -> Any:
        """Move an average towards a value: variable ← variable − (variable − value)·(1 − momentum)."""
        dtype = variable.dtype.base_dtype
        if tf.is_tensor(momentum) or isinstance(momentum, tf.Variable):
            momentum = tf.cast(momentum, dtype)
        value = tf.cast(value, dtype)
        counted = None if inputs_size is None else tf.broadcast_to(inputs_size > 0, tf.shape(value))
        with tf.compat.v1.name_scope("AssignMovingAvg") as scope:
            rule = Rule("", lambda *_: value, momentum)
            batch = Batch(value, value, value, counted)
            plain: Any = None
            change = decrement(ops, plain, rule, variable.read_value(), {}, batch)  # pyright: ignore[reportArgumentType]
            return variable.assign_sub(change, name=scope if is_ref(variable) else None)

    def _assign_new_value(self, variable: Any, value: Tensor) -> Any:
        """Assign a value to a variable."""
        with tf.compat.v1.name_scope("AssignNewValue") as scope:
            return variable.assign(tf.cast(value, variable.dtype.base_dtype), name=scope)

    def _assign_if(self, training: Any, variable: Any, value: Tensor, momentum: Any, size: Any) -> Tensor:
        """The variable's value after a hook's assignment, which may be conditional on a tensor `training`."""

        def assign() -> Tensor:
            if momentum is None:
                made = self._assign_new_value(variable, value)
            else:
                made = with_size(self._assign_moving_average, variable, value, momentum, size)
            with tf.control_dependencies([] if made is None or tf.executing_eagerly() else [made]):
                return tf.identity(variable)

        if training is True:
            return assign()
        return (
            tf.identity(variable)
            if training is False
            else tf.cond(training, assign, lambda: tf.identity(variable))
        )


_OWN = dict(vars(Hooks))


def overrides(layer: Any, *names: str) -> bool:
    """Whether any of the hooks is not ours: a subclass overrides it, or a program has replaced it."""
    return any(name in vars(layer) or getattr(type(layer), name) is not _OWN[name] for name in names)


def with_mask(hook: Callable[..., Any], *args: Any, mask: Tensor | None, **kwargs: Any) -> Any:
    """Call the hook. Hooks written for TensorFlow 1 do not know masks, and are refused only if there is one."""
    parameters = inspect.signature(hook).parameters
    if "mask" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return hook(*args, mask=mask, **kwargs)
    if mask is not None:
        raise ValueError(
            format_error(
                f"A layer whose {hook.__name__}{inspect.signature(hook)} takes no mask was called with one",
                "The mask would be ignored",
                f"Let {hook.__name__} take mask=None, or leave the mask out",
            )
        )
    return hook(*args, **kwargs)


def with_size(hook: Callable[..., Any], *args: Any) -> Any:
    """Call the hook. Older hooks lack the last argument, the number of examples, which is then left out."""
    try:
        inspect.signature(hook).bind(*args)
    except TypeError:
        return hook(*args[:-1])
    return hook(*args)
