"""The class `tf.compat.v1.layers.BatchNormalization`: its options, its variables, its calls."""

import warnings
from typing import Any

import tensorflow as tf

from batchnorm._core.state import slots
from batchnorm._graph.eager import active_tracker, check_variables_have_a_home
from batchnorm._graph.fused import was_fused
from batchnorm._graph.names import name_output, output_name, update_names
from batchnorm._graph.normalize import Call, call_adjustment, normalize
from batchnorm._graph.objects import constraint, initializer, regularizer
from batchnorm._graph.scope import LayerScope, unique_object_name
from batchnorm._graph.training import resolve_training
from batchnorm._graph.updates import FINAL, apply_updates, update_ops
from batchnorm._graph.variables import (
    existing_variables,
    flat,
    parts,
    read,
    regularization,
    square_root_of,
    statistic,
    weight,
)
from batchnorm.compat.v1._arguments import check_axis, check_unknown, make_options, resolve_dtype
from batchnorm.compat.v1._surface import Record, Surface
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
        base = name.name if isinstance(name, tf.compat.v1.VariableScope) else name
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
            x = self._check_input(inputs)
            if not self.built:
                self._build(x.shape)
            self._check_shape(x.shape)
            return self._call(x, resolve_training(training), mask)

    def _build(self, shape: Any) -> None:
        record = self._record
        asked = self.axis if isinstance(self.axis, list) else [self.axis]
        axes = canonical_axes(asked, shape.rank)
        refuse_ghost_axis(axes, make_options(self).ghost)
        unknown = [axis for axis in axes if shape[axis] is None]
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
        self._make_variables([shape[axis] if axis in axes else 1 for axis in range(shape.rank)], axes)
        record.axes, record.rank = axes, shape.rank
        record.sizes = {axis: shape[axis] for axis in axes}

    def _make_variables(self, kept: list[int], axes: tuple[int, ...]) -> None:
        if self.virtual_batch_size is not None:
            kept.insert(1, 1)
        shape = [kept[axes[0]]] if len(axes) == 1 and self.virtual_batch_size is None else kept
        if self.scale:
            self.gamma = self._add_weight("gamma", shape)
        if self.center:
            self.beta = self._add_weight("beta", shape)
        start = {"moving_mean": self.moving_mean_initializer, "moving_variance": self.moving_variance_initializer}
        if self.renorm and self.renorm_form == "current":
            root = square_root_of(self.moving_variance_initializer)
            start |= {"moving_stddev": root, "renorm_mean": self.moving_mean_initializer, "renorm_stddev": root}
        for slot in slots(make_options(self)):
            scalar = slot.endswith("_weight")
            made = statistic(slot, [] if scalar else shape, self._dtype, start.get(slot, initializer("zeros")))
            setattr(self, slot, made)
            self._record.others.append(made)

    def _add_weight(self, name: str, shape: list[int]) -> Any:
        known = existing_variables()
        made = weight(
            name,
            shape,
            self._dtype,
            getattr(self, f"{name}_initializer"),
            self.trainable,
            getattr(self, f"{name}_constraint"),
        )
        kept = parts(made)
        # A scope's custom getter may have decided that the variable is not to be trained.
        overruled = self.trainable and not all(part.trainable for part in kept)
        (self._record.others if overruled else self._record.trainable).extend(kept)
        rule = getattr(self, f"{name}_regularizer")
        if rule is not None:
            self._regularize(name, made, rule, is_new=not {part.name for part in kept} & known)
        return made

    def _regularize(self, name: str, variable: Any, rule: Any, is_new: bool) -> None:
        tracker = active_tracker()
        if tracker is not None:
            tracker.add_regularizer(variable, rule)
        if tf.compat.v1.executing_eagerly_outside_functions():
            self._record.losses.append(lambda: tf.add_n(regularization(name, variable, rule)))
        elif is_new:
            losses = regularization(name, variable, rule)
            for loss in losses:
                tf.compat.v1.add_to_collection(tf.compat.v1.GraphKeys.REGULARIZATION_LOSSES, loss)
            self._record.losses += [lambda loss=loss: loss for loss in losses]

    def _check_input(self, inputs: Any) -> Any:
        x = tf.convert_to_tensor(inputs, dtype_hint=self._compute_dtype)
        asked = f"An input of dtype {x.dtype.name} and shape {x.shape} was given to {self._name!r}"
        if not x.dtype.is_floating:
            raise TypeError(refusal(asked, "Only floating numbers can be normalized", "Cast it, e.g. to tf.float32"))
        if x.shape.rank is None:
            raise ValueError(
                refusal(asked, "The rank of the input must be known", "Set it with tensor.set_shape or tf.ensure_shape")
            )
        if self._compute_dtype is None:
            self._dtype, self._compute_dtype = resolve_dtype(x.dtype)
        if x.dtype == self._compute_dtype:
            return x
        if "cast" not in self._record.warned:
            self._record.warned.add("cast")
            warnings.warn(
                refusal(
                    asked,
                    f"The layer computes in {self._compute_dtype.name}, settled by its dtype argument or first input",
                    f"The input is cast; pass dtype={x.dtype.name!r} at construction to compute in that",
                ),
                stacklevel=3,
            )
        return tf.cast(x, self._compute_dtype)

    def _check_shape(self, shape: Any) -> None:
        spec = self._record
        complaint = ""
        if shape.rank != spec.rank:
            complaint = f"expected ndim={spec.rank}, found ndim={shape.rank}"
        for axis, size in spec.sizes.items():
            if not complaint and shape[axis] not in (None, size):
                complaint = f"expected axis {axis} to have size {size}, found {shape[axis]}"
        if complaint:
            raise ValueError(
                refusal(
                    f"An input of shape {shape} was given to {self._name!r}",
                    f"The layer is incompatible with it: {complaint}, as in its first input",
                    "Use another layer for inputs of another shape",
                )
            )

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
            state = self._read_state()
            gamma, beta = (None if value is None else flat(value) for value in (self.gamma, self.beta))
        call = Call(x, gamma, beta, state, training, weights, adjustment)
        dynamic = not isinstance(training, bool)
        plain = not self.renorm and adjustment is None
        wide = self._compute_dtype != self._dtype
        name = output_name(bool(self.fused), self.virtual_batch_size is not None, wide, plain)
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
            self._update(options, x, batch, [state[slot] for slot in state if slot not in FINAL], dynamic)
        return y

    def _read_state(self) -> dict[str, Any]:
        """The state this call sees. All calls in one graph see that of before any of them updates it."""
        variables = {slot: getattr(self, slot) for slot in slots(make_options(self))}
        state = {slot: flat(variables.pop(slot)) for slot in FINAL}
        if tf.compat.v1.executing_eagerly_outside_functions() or not variables:
            return state | read(variables)
        graph = tf.compat.v1.get_default_graph()
        context = graph._get_control_flow_context()  # noqa: SLF001
        key = (id(graph), id(context))
        if key not in self._record.snapshots:
            self._record.snapshots[key] = read(variables)
        return state | self._record.snapshots[key]

    def _update(self, options: Any, x: Any, batch: Any, after: list[Any], dynamic: bool) -> None:
        if not self.trainable:
            return
        variables = {slot: getattr(self, slot) for slot in slots(options)}
        if tf.compat.v1.executing_eagerly_outside_functions():
            apply_updates(options, variables, batch)
            return
        wrappers = update_names(bool(self.fused), self.renorm, dynamic)
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
