"""The class `tf.compat.v1.layers.BatchNormalization`: its options, its variables, its calls."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import tensorflow as tf

from batchnorm._core.state import slots
from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.context import in_wrapped_function
from batchnorm._engines.tensorflow.private import is_ref
from batchnorm._faces.axes import axes_of
from batchnorm._tf1.names import name_output, output_name, update_names
from batchnorm._tf1.normalize import Call, adjustment_for, normalize
from batchnorm._tf1.objects import constraint, initializer, regularizer, serialize
from batchnorm._tf1.recompute import is_recomputing, recall
from batchnorm._tf1.training import resolve_training
from batchnorm._tf1.updates import FINAL, Assign, apply_updates, update_ops
from batchnorm._tf1.variables import flat, snapshot
from batchnorm.compat.v1._arguments import check_axis, check_unknown, make_options
from batchnorm.compat.v1._base import InputSpec, Layer
from batchnorm.compat.v1._composed import normalize_by_hooks
from batchnorm.compat.v1._hooks import ASSIGNMENTS, MOMENTS, RENORM, Hooks, overrides, with_mask
from batchnorm.compat.v1._inputs import check_floating, check_input
from batchnorm.compat.v1._variables import make_variables
from batchnorm.errors import format_error, warn_user
from batchnorm.layout import canonical_axes, refuse_ghost_axis

__all__ = ["BatchNormalization"]

PLAIN = ("momentum", "epsilon", "center", "scale")
OBJECTS = (
    *("beta_initializer", "gamma_initializer", "moving_mean_initializer", "moving_variance_initializer"),
    *("beta_regularizer", "gamma_regularizer", "beta_constraint", "gamma_constraint"),
)
# What the original's config contains only if it was asked for, and what only ours has.
RENORM_ARGUMENTS = ("renorm", "renorm_clipping", "renorm_momentum")
DEFAULTS = {"virtual_batch_size": None, "ghost_order": "interleaved", "renorm_form": "current"}


@dataclass
class Record:
    """The state of a layer besides its public attributes."""

    axis: Any
    axes: tuple[int, ...] | None = None
    warned: set[str] = field(default_factory=set[str])


class BatchNormalization(Hooks, Layer):  # pyright: ignore[reportUntypedBaseClass]
    """Batch normalization as TensorFlow 1 had it (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167).

    Training: y = γ·(a_s·(r·x̂ + d) + a_b) + β with x̂ = (x − μ) / √(σ² + ε) over the batch. Inference:
    y = γ·(x − M) / √(V + ε) + β with the moving mean and variance. In a graph a training call adds two update ops to
    `UPDATE_OPS`, which must run with each step; under `track_tf1_style_variables` the updates run by themselves.

    Args:
        axis: channel axis, or a list of them; the statistics are taken over all others.
        momentum: share of the old value that the moving averages keep; a number or a scalar tensor.
        epsilon: added to the variance.
        center, scale: whether beta and gamma exist.
        beta_initializer, gamma_initializer, moving_mean_initializer, moving_variance_initializer: names, objects or
            callables; None takes the variable scope's.
        beta_regularizer, gamma_regularizer, beta_constraint, gamma_constraint: callables on the parameter.
        renorm, renorm_clipping, renorm_momentum: batch renormalization; the clipping is a dict with any of rmin, rmax
            and dmax, numbers or scalar tensors.
        fused: False keeps to TensorFlow's plain operations. For ranks 4 and 5 it also decides, as it always did,
            whether the moving variance is the sample variance (None or True) or the population's (False).
        trainable: whether gamma and beta are trained and the moving statistics updated.
        virtual_batch_size: examples in a ghost batch; training normalizes each group by itself.
        adjustment: function from the input's dynamic shape to a factor and an offset, applied before gamma and beta
            while training.
        name: variable scope and layer name.
        ghost_order: "interleaved" as in the original, or "contiguous".
        renorm_form: "current", or "debiased" for checkpoints of TensorFlow 1.14 and earlier.
        activity_regularizer: callable on the output.
        dtype: the layer's dtype; by default that of the first input.

    Raises:
        TypeError: an argument of a wrong type, an unknown one, or an axis that is not an int.
        ValueError: options that cannot be combined, or an unknown key in `renorm_clipping`.

    Examples:
        >>> import tensorflow as tf
        >>> from batchnorm.compat.v1.layers import BatchNormalization
        >>> with tf.Graph().as_default():
        ...     layer = BatchNormalization(momentum=0.9, renorm=True)
        ...     y = layer(tf.ones([4, 3]), training=True)
        >>> y.shape.as_list(), len(layer.updates), len(layer.trainable_weights)
        ([4, 3], 2, 2)
    """

    def __init__(
        self,
        axis: Any = -1,
        momentum: Any = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        renorm: bool = False,
        renorm_clipping: dict[str, Any] | None = None,
        renorm_momentum: Any = 0.99,
        fused: bool | None = None,
        trainable: bool = True,
        virtual_batch_size: int | None = None,
        adjustment: Any = None,
        name: Any = None,
        *,
        dtype: Any = None,
        activity_regularizer: Any = None,
        ghost_order: str = "interleaved",
        renorm_form: str = "current",
        _scope: Any = None,
        _reuse: Any = None,
        **unknown: Any,
    ) -> None:
        for_base = check_unknown(unknown)
        base: Any = super()
        base.__init__(
            trainable=trainable,
            name=name,
            dtype=dtype,
            activity_regularizer=regularizer(activity_regularizer),
            _scope=_scope,
            _reuse=_reuse,
            **for_base,
        )
        self.axis = check_axis(axis)
        self.momentum = momentum
        self.epsilon = epsilon
        self.center = center
        self.scale = scale
        self.beta_initializer = initializer(beta_initializer)
        self.gamma_initializer = initializer(gamma_initializer)
        self.moving_mean_initializer = initializer(moving_mean_initializer)
        self.moving_variance_initializer = initializer(moving_variance_initializer)
        self.beta_regularizer = regularizer(beta_regularizer)
        self.gamma_regularizer = regularizer(gamma_regularizer)
        self.beta_constraint = constraint(beta_constraint)
        self.gamma_constraint = constraint(gamma_constraint)
        self.renorm = renorm
        self.renorm_clipping = renorm_clipping
        self.renorm_momentum = renorm_momentum
        self.renorm_form = renorm_form
        self.synchronized = False
        self.fused = fused is not False
        self.trainable = trainable
        self.supports_masking = True
        self.virtual_batch_size = virtual_batch_size
        self.ghost_order = ghost_order
        self.adjustment = adjustment
        # Whether the fused rule stores the sample variance; the original's tests switch it off.
        self._bessels_correction_test_only = True
        self.gamma = self.beta = None
        self.moving_mean = self.moving_variance = None
        self.wants_kernel = fused
        self._record = Record(self.axis)
        make_options(self)  # checks what can be checked before an input is seen

    def build(self, input_shape: Any) -> None:
        """Make the variables for inputs of this shape; the first call does it by itself."""
        if self._record.axes is not None:
            return
        shape = tf.TensorShape(input_shape)
        axes = self._check_axes(shape)
        known: list[Any] = shape.as_list()
        sizes = {axis: known[axis] for axis in axes}
        if self.compute_dtype is None:
            self._set_dtype_policy("float32")
        self.axis = list(axes)
        image = shape.rank in (4, 5) and axes in ((1,), (shape.rank - 1,))
        self.fused = bool(self.fused) and image and self._fused_can_be_used()
        self._warn_of_skipped_hooks()
        self.input_spec = InputSpec(ndim=shape.rank, axes=sizes)
        kept = [sizes.get(axis, 1) for axis in range(shape.rank)]
        if self.virtual_batch_size is not None:
            kept.insert(1, 1)
            self.axis = [axis + 1 for axis in axes]  # of the inputs in groups
        alone = len(axes) == 1 and self.virtual_batch_size is None
        self._param_shape = (sizes[axes[0]],) if alone else kept
        make_variables(self, self._param_shape)
        self._record.axes = axes
        super().build(input_shape)

    def _check_axes(self, shape: tf.TensorShape) -> tuple[int, ...]:
        asked = axes_of(self.axis)
        self._record.axis = self.axis
        axes = canonical_axes(asked, shape.rank)
        refuse_ghost_axis(axes, make_options(self).ghost)
        unknown = [axis for axis in axes if shape.as_list()[axis] is None]
        if unknown:
            raise ValueError(
                format_error(
                    f"An input of shape {shape} was given with axes {asked}",
                    f"Input has undefined `axis` dimension: the size of axis {unknown[0]} sizes the variables",
                    "Set it with tf.ensure_shape or tensor.set_shape",
                )
            )
        return axes

    def _warn_of_skipped_hooks(self) -> None:
        skipped = [name for name in MOMENTS if overrides(self, name)]
        if self.fused and skipped:
            warn_user(
                format_error(
                    f"{type(self).__name__} overrides {skipped[0]} and normalizes images fused",
                    "As in the original, the fused path computes the batch's moments without calling it",
                    "Pass fused=False to have the override called",
                ),
            )

    def _maybe_build(self, inputs: Any) -> None:
        if not self.built and tf.is_tensor(inputs):
            check_floating(self, inputs)
        super()._maybe_build(inputs)

    # AutoGraph would rewrite everything below at each trace, and nothing below branches on a tensor.
    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: Any, training: Any = False, mask: Any = None) -> Any:
        """Normalize a tensor. Call the layer itself, which also makes its variables and counts its losses.

        Args:
            inputs: floating tensor of known rank, with known sizes on the channel axes.
            training: True, False, 1, 0, a boolean scalar tensor, or None for the graph's learning phase.
            mask: weights of the positions, with the input's shape without its last axis; positions of weight zero
                are left out of the statistics. As in the original, negative weights are not refused.

        Returns:
            The normalized tensor, in the shape of the input.

        Raises:
            TypeError: an input that is not floating, or a training argument that is not a boolean.
            ValueError: a shape that does not fit, or a batch that `virtual_batch_size` does not divide.
        """
        x = check_input(self, inputs)
        training = resolve_training(self._get_training_value(training))
        if self.fused:
            return with_mask(self._fused_batch_norm, x, mask=mask, training=training)
        return self._normalize(x, training, mask)

    def _fused_batch_norm(self, inputs: Any, mask: Any, training: Any) -> Any:
        """What the layer does if the original runs its fused kernel."""
        return self._normalize(inputs, training, mask)

    def _normalize(self, x: Any, training: Any, mask: Any) -> Any:
        dtype = tf.as_dtype(self._param_dtype)
        weights = None if mask is None else tf.expand_dims(tf.cast(mask, dtype), -1)
        sample = self.fused and self._bessels_correction_test_only and mask is None
        options = make_options(self, self._record.axes, "sample" if sample else "population")
        adjustment = None
        if self.adjustment is not None and training is not False:
            adjustment = adjustment_for(self.adjustment, x, dtype)
        with tf.compat.v1.name_scope("read"):
            state = {slot: flat(getattr(self, slot)) for slot in FINAL}
            others = {slot: getattr(self, slot) for slot in slots(options) if slot not in FINAL}
            before = snapshot(others)
            gamma, beta = (None if value is None else flat(value) for value in (self.gamma, self.beta))
        read = state | before if training is False else recall(state | before)
        call = Call(x, gamma, beta, read, training, weights, adjustment)
        if dtype != ops.stat_dtype(x):  # a subclass may keep its variables in another one
            call = _cast(call, ops.stat_dtype(x))
        step = partial(normalize, options, call)
        if not self.fused and overrides(self, *MOMENTS, *RENORM):
            step = partial(normalize_by_hooks, self, options, call, mask)
        dynamic = not isinstance(training, bool)
        wide = tf.as_dtype(self.compute_dtype) != dtype
        name = output_name(self.fused, self.virtual_batch_size is not None, wide, self._n_bare(x, adjustment))
        if self.fused and training is not True:
            y, contribution = step()
            if not dynamic and not tf.executing_eagerly() and y.op.type != "FusedBatchNormV3":
                y = tf.identity(y, name=name)
        else:
            y, contribution = name_output(name, step)
        y.set_shape(x.shape)
        if contribution is not None and self.trainable:
            batch = contribution()
            if dtype != batch.mean.dtype and dtype == tf.float64:
                mean, variance, estimate = (tf.cast(value, dtype) for value in batch[:3])
                total = None if batch.total is None else tf.cast(batch.total, dtype)
                batch = batch._replace(mean=mean, variance=variance, stored_variance=estimate, total=total)
            self._add_updates(options, x, batch, list(before.values()), training)
        return y

    def _n_bare(self, x: Any, adjustment: Any) -> int:
        """How many of TensorFlow 1's variables scale or shift x as they are, neither reshaped nor corrected."""
        if self.renorm or adjustment is not None or self._record.axes != (x.shape.rank - 1,):
            return 0
        return sum(value is not None and is_ref(value) for value in (self.gamma, self.beta))

    def _add_updates(self, options: Any, x: Any, batch: Any, after: list[Any], training: Any) -> None:
        """Two updates, as the original adds them; both are made at once, because they share dependencies."""
        if is_recomputing():
            return
        variables = {slot: getattr(self, slot) for slot in slots(options)}
        if self.renorm and not self.fused and overrides(self, *RENORM):
            del variables["renorm_mean"], variables["renorm_stddev"]  # the hook has updated them
        by = self._assign_by_hooks(x, training) if overrides(self, *ASSIGNMENTS) else None
        made: list[Any] = []

        def make(which: int) -> Any:
            if not made and tf.compat.v1.executing_eagerly_outside_functions() and not in_wrapped_function():
                made.extend((apply_updates(options, variables, batch, by), None))
            elif not made:
                dynamic = not isinstance(training, bool) and by is None
                wrappers = update_names(self.fused, self.renorm, self.adjustment is not None, dynamic)
                made.extend(update_ops(options, variables, batch, after, wrappers, by))
            return made[which]

        self.add_update(lambda: make(0))
        self.add_update(lambda: make(1))

    def _assign_by_hooks(self, x: Any, training: Any) -> Assign:
        size = tf.shape(x)[0] if self._support_zero_size_input() else None
        return lambda variable, value, decay: self._assign_if(training, variable, value, decay, size)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the output: that of the input."""
        return tf.TensorShape(input_shape)

    def get_config(self) -> dict[str, Any]:
        """The arguments, so that `from_config` makes such a layer again. The axis is the user's own."""
        config: dict[str, Any] = super().get_config()
        config |= {"axis": self._record.axis if self._record.axes is not None else self.axis}
        config |= {key: getattr(self, key) for key in PLAIN}
        config |= {key: serialize(getattr(self, key)) for key in OBJECTS}
        if self.renorm:
            config |= {key: getattr(self, key) for key in RENORM_ARGUMENTS}
        added = {key: getattr(self, key) for key in DEFAULTS}
        config |= {key: value for key, value in added.items() if value != DEFAULTS[key]}
        if self.wants_kernel is not None:
            config["fused"] = self.wants_kernel
        if self.adjustment is not None:
            warn_user("The adjustment is a function and is left out of the layer's config.")
        return config


def _cast(call: Call, dtype: Any) -> Call:
    gamma, beta = (None if value is None else ops.cast(value, dtype) for value in (call.gamma, call.beta))
    state = {slot: ops.cast(value, dtype) for slot, value in call.state.items()}
    return call._replace(gamma=gamma, beta=beta, state=state)
