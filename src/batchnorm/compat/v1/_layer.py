"""The class `tf.compat.v1.layers.BatchNormalization`: its options, its variables, its calls."""

from typing import Any

import tensorflow as tf

from batchnorm._core.state import slots
from batchnorm._graph.eager import check_variables_have_a_home
from batchnorm._graph.fused import was_fused
from batchnorm._graph.names import name_output, output_name, update_names
from batchnorm._graph.normalize import Call, call_adjustment, normalize
from batchnorm._graph.objects import constraint, initializer, regularizer
from batchnorm._graph.scope import LayerScope, unique_object_name
from batchnorm._graph.training import resolve_training
from batchnorm._graph.updates import FINAL, apply_updates, update_ops
from batchnorm._graph.variables import flat, is_ref, snapshot
from batchnorm.compat.v1._arguments import check_axis, check_unknown, make_options, resolve_dtype
from batchnorm.compat.v1._inputs import check_input, check_shape
from batchnorm.compat.v1._surface import Record, Surface
from batchnorm.compat.v1._variables import make_variables
from batchnorm.errors import refusal
from batchnorm.layout import canonical_axes, refuse_ghost_axis

__all__ = ["BatchNormalization"]


class BatchNormalization(Surface):
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
        dtype: of the layer; by default that of the first input.

    Raises:
        TypeError: an argument of a wrong type, an unknown one, or an axis that is no int.
        ValueError: options that have no meaning together, or an unknown key in `renorm_clipping`.
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
        check_unknown(unknown)
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
        self.activity_regularizer = regularizer(activity_regularizer)
        self.renorm = renorm
        self.renorm_clipping = renorm_clipping
        self.renorm_momentum = renorm_momentum
        self.renorm_form = renorm_form
        self.fused = fused
        self.trainable = trainable
        self.virtual_batch_size = virtual_batch_size
        self.ghost_order = ghost_order
        self.adjustment = adjustment
        self.gamma = self.beta = None
        self.moving_mean = self.moving_variance = None
        self._dtype, self._compute_dtype = resolve_dtype(dtype)
        self._name = name if isinstance(name, str) and name else unique_object_name(type(self).__name__)
        given: Any = name
        base = given.name if isinstance(given, tf.compat.v1.VariableScope) else given
        self._record = Record(LayerScope(base or "batch_normalization", _scope, _reuse))
        self.wants_kernel = fused
        make_options(self)  # refuses here what can be refused before an input is seen

    def build(self, input_shape: Any) -> None:
        """Make the variables for inputs of this shape; the first call does it by itself."""
        if self.built:
            return
        self._record.scope.settle()
        if self._compute_dtype is None:
            self._dtype, self._compute_dtype = tf.float32, tf.float32
        with self._record.scope.enter(built=False):
            self._build(tf.TensorShape(input_shape))

    # AutoGraph would rewrite everything below at each trace, and nothing below branches on a tensor.
    @tf.autograph.experimental.do_not_convert
    def __call__(self, inputs: Any, training: Any = False, mask: Any = None, *, scope: Any = None) -> Any:
        """Normalize a tensor.

        Args:
            inputs: floating tensor of known rank, with known sizes on the channel axes.
            training: True, False, 1, 0, a boolean scalar tensor, or None for the graph's learning phase.
            mask: weights of the positions, of the input's shape without its last axis; those where it is zero are
                left out of the statistics.
            scope: variable scope of a layer that has not been called yet.

        Raises:
            TypeError: an input that is not floating, or a training argument that is no boolean.
            ValueError: a shape that does not fit, an eager call outside a tracker, or a batch that
                `virtual_batch_size` does not divide.
        """
        check_variables_have_a_home(f"{type(self).__name__} {self._name!r}")
        self._record.scope.settle(scope)
        with self._record.scope.enter(self.built):
            x = check_input(self, inputs)
            if not self.built:
                self._build(x.shape)
            check_shape(self, x.shape)
            return self._call(x, resolve_training(training), mask)

    def _build(self, shape: Any) -> None:
        record = self._record
        asked = self.axis if isinstance(self.axis, list) else [self.axis]
        axes = canonical_axes(asked, shape.rank)
        refuse_ghost_axis(axes, make_options(self).ghost)
        sizes = shape.as_list()
        unknown = [axis for axis in axes if sizes[axis] is None]
        if unknown:
            raise ValueError(
                refusal(
                    f"An input of shape {shape} was given with axes {asked}",
                    f"Input has undefined `axis` dimension: the size of axis {unknown[0]} sizes the variables",
                    "Set it with tf.ensure_shape or tensor.set_shape",
                )
            )
        plain = not self.renorm and self.virtual_batch_size is None and self.adjustment is None
        self.fused = was_fused(self.fused, axes, shape.rank, self._compute_dtype, plain)
        make_variables(self, [sizes[axis] if axis in axes else 1 for axis in range(shape.rank)], axes)
        record.axes, record.rank = axes, shape.rank
        record.sizes = {axis: sizes[axis] for axis in axes}

    def _call(self, x: Any, training: Any, mask: Any) -> Any:
        weights = None
        if mask is not None:
            weights = tf.expand_dims(tf.cast(mask, self._dtype), -1)
        estimator = "sample" if self.fused and self._record.sample and mask is None else "population"
        options = make_options(self, self._record.axes, estimator)
        adjustment = None
        if self.adjustment is not None and training is not False:
            adjustment = call_adjustment(self.adjustment, x, self._dtype)
        with tf.compat.v1.name_scope("read"):
            state = {slot: flat(getattr(self, slot)) for slot in FINAL}
            others = {slot: getattr(self, slot) for slot in slots(options) if slot not in FINAL}
            before = snapshot(others)
            gamma, beta = (None if value is None else flat(value) for value in (self.gamma, self.beta))
        call = Call(x, gamma, beta, state | before, training, weights, adjustment)
        dynamic = not isinstance(training, bool)
        wide = self._compute_dtype != self._dtype
        name = output_name(
            bool(self.fused), self.virtual_batch_size is not None, wide, self._n_bare(x, adjustment)
        )
        if self.fused and training is not True:
            y, batch = normalize(options, call)
            if not dynamic and not tf.executing_eagerly() and y.op.type != "FusedBatchNormV3":
                y = tf.identity(y, name=name)
        else:
            y, batch = name_output(name, lambda: normalize(options, call))
        y.set_shape(x.shape)
        if self.activity_regularizer is not None:
            self._record.activity.append((self.activity_regularizer(y), x))
        if batch is not None:
            self._update(options, x, batch, list(before.values()), dynamic)
        return y

    def _n_bare(self, x: Any, adjustment: Any) -> int:
        """How many of TensorFlow 1's variables scale or shift x as they are, neither reshaped nor corrected."""
        if self.renorm or adjustment is not None or self._record.axes != (x.shape.rank - 1,):
            return 0
        return sum(value is not None and is_ref(value) for value in (self.gamma, self.beta))

    def _update(self, options: Any, x: Any, batch: Any, after: list[Any], dynamic: bool) -> None:
        if not self.trainable:
            return
        variables = {slot: getattr(self, slot) for slot in slots(options)}
        if tf.compat.v1.executing_eagerly_outside_functions():
            apply_updates(options, variables, batch)
            return
        wrappers = update_names(bool(self.fused), self.renorm, self.adjustment is not None, dynamic)
        made = update_ops(options, variables, batch, after, wrappers)
        self._record.updates += [(op, x) for op in made]
        collected = tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.UPDATE_OPS)
        for op in made:
            if op not in collected:
                tf.compat.v1.add_to_collection(tf.compat.v1.GraphKeys.UPDATE_OPS, op)

    @property
    def _bessels_correction_test_only(self) -> bool:
        """Whether the fused rule stores the sample variance; the original's tests switch it off."""
        return self._record.sample

    @_bessels_correction_test_only.setter
    def _bessels_correction_test_only(self, value: bool) -> None:
        self._record.sample = value

    def apply(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The same as calling the layer."""
        return self(inputs, *args, **kwargs)

    call = apply
