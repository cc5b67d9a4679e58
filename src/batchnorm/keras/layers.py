"""Batch normalization as a Keras 3 layer."""

from dataclasses import replace
from typing import Any, Literal

import keras
from keras import constraints, initializers, regularizers

from batchnorm._core import step
from batchnorm._core.given import given
from batchnorm._faces.adjustment import check_adjustment
from batchnorm._faces.axes import read_axis, read_size
from batchnorm._faces.clip import check_bounds, read_clip
from batchnorm._faces.switches import check_switches
from batchnorm.keras import _activation, _arguments, _config, _variables
from batchnorm.keras._backend import backend, warn_beside_keras_2
from batchnorm.keras._moments import ask_moments, overrides_moments, own_moments, remember_own
from batchnorm.keras._ragged import call_ragged
from batchnorm.keras._residual import check_residual
from batchnorm.keras._weights import (
    adjustment_for,
    as_float,
    as_tensor,
    check_weights,
    merge_weights,
    statistics_dtype,
)
from batchnorm.layout import Layout, canonical_axes, plan_layout
from batchnorm.options import Ghost

__all__ = ["BatchNormalization"]

Tensor = Any
PARTS = (
    *("beta_initializer", "gamma_initializer", "moving_mean_initializer", "moving_variance_initializer"),
    *("beta_regularizer", "gamma_regularizer", "beta_constraint", "gamma_constraint"),
)
PLAIN = ("axis", "momentum", "epsilon", "center", "scale")
RENORM = ("synchronized", "renorm", "renorm_clipping", "renorm_momentum")


@keras.saving.register_keras_serializable(package="batchnorm")
class BatchNormalization(keras.layers.Layer):
    """`keras.layers.BatchNormalization` with the options of Keras 2 and `tf.contrib` as well.

    Trained on a batch with mean μ and variance σ², y = act(γ·(x − μ) / √(σ² + ε) + β + z), where the `activation` act
    and the `residual` z are optional; otherwise the moving statistics take the place of μ and σ². Variables are
    named, shaped and ordered as in Keras 3, those for several axes and for ghost batches as in tf_keras, so that the
    weights of both load.

    What differs from Keras 3: an empty batch leaves the statistics as they are, and so do channels whose mask or
    weights are all zero; if that is true of all channels, the moving statistics normalize. A mask counts with
    `synchronized` too. An `axis` such as 1.7 or "1" is a TypeError.

    Args:
        axis: the channel axis, or a list of them.
        momentum: share that the moving averages keep of their old value.
        epsilon: added to the variance.
        center: whether beta is trained.
        scale: whether gamma is trained.
        renorm: batch renormalization (https://arxiv.org/abs/1702.03275).
        renorm_clipping: bounds "rmin", "rmax" and "dmax" of its corrections: numbers, or `keras.Variable`s that the
            program changes during training, which then count among the layer's weights.
        renorm_momentum: share that renorm's averages keep.
        synchronized: take the statistics over all replicas: of the current `tf.distribute` strategy, or of
            `torch.distributed`'s default group. On JAX a sharded batch is one batch, with or without it.
        fused: None takes the fastest way there is. True is refused if Keras 2 had no fused kernel for the call, and
            False takes plain operations. The numbers are the same.
        virtual_batch_size: examples in a ghost batch (https://arxiv.org/abs/1705.08741). In training the batch
            must be a multiple of it unless `ghost_remainder` is "smaller"; in inference it has no effect.
        ghost_order: "interleaved" puts example i into ghost batch i mod (batch / size), as tf_keras does;
            "contiguous" puts neighbors together.
        adjustment: function of the inputs' shape that returns a factor and an offset, which are applied
            after the normalization and before gamma and beta, in training only.
        zero_debias_moving_mean: make the moving mean an average over the steps so far, free of its initial value.
        variance: estimator stored in `moving_variance`: "population" as in Keras 3, or "sample" as Keras 2
            stores it for images (inputs of rank 4 and 5 with one channel axis, first or last).
        ghost_remainder: what happens if the batch is not a multiple of `virtual_batch_size`: "refuse" raises an error,
            "smaller" makes smaller groups, in contiguous order those of `torch.chunk`.
        ghost_averages: "step" moves the moving statistics once per step, towards the mean of the groups'
            statistics; "group" moves them once per group in turn, as a loop over chunks does. Not with renorm or
            zero_debias_moving_mean.
        activation: as in Keras' own layers: a name ("relu", "leaky_relu", "gelu", "silu", "hard_silu", ...) or a
            function, with Keras' defaults (`keras.activations.gelu` is exact, `keras.ops.gelu` its approximation
            by tanh); a `batchnorm.Activation`; or a layer such as `keras.layers.ReLU(max_value=6)`. Those of
            `batchnorm.Activation`'s table are computed with the normalization, in at least 32 bits, and rounded once;
            any other is applied to its result.

    Call arguments:
        inputs: tensor of any rank. On TensorFlow it may be a `tf.RaggedTensor`; each of its numbers counts.
        training: None takes it from the enclosing call. In a `tf.function` it may be a tensor.
        mask: booleans of the inputs' shape without the last axis; False leaves a position out of the
            statistics.
        sample_weight: how much each example or position counts in the statistics, not negative: [batch], or
            any shape whose axes broadcast to the first ones of the inputs. Negative weights and NaN are refused in
            eager calls on a CPU; compiled programs do not check.
        residual: a tensor of the inputs' shape that is added before the activation; ragged if they are.
        inputs_mask: where Keras puts the inputs' own mask if there are other tensors; `mask` takes precedence.

    Returns:
        The normalized inputs, after the activation, in their shape and the layer's compute dtype.

    Raises:
        TypeError: an argument of a wrong type, such as an `axis` that is not an int.
        ValueError: options that cannot be combined, a value outside its range, inputs that do not fit the layer, or a
            weight that is negative or NaN.

    Examples:
        >>> import numpy as np
        >>> from batchnorm.keras.layers import BatchNormalization
        >>> layer = BatchNormalization(momentum=0.5, virtual_batch_size=2, ghost_order="contiguous")
        >>> y = layer(np.array([[1.0], [3.0], [10.0], [30.0]], "float32"), training=True)
        >>> [round(float(value), 2) for value in np.ravel(y)]
        [-1.0, 1.0, -1.0, 1.0]
        >>> round(float(np.ravel(layer.moving_mean)[0]), 2)
        5.5
    """

    def __init__(
        self,
        axis: Any = -1,
        momentum: float = 0.99,
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
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        *,
        fused: bool | None = None,
        virtual_batch_size: int | None = None,
        ghost_order: Literal["interleaved", "contiguous"] = "interleaved",
        adjustment: Any = None,
        zero_debias_moving_mean: bool = False,
        variance: Literal["population", "sample"] = "population",
        ghost_remainder: Literal["refuse", "smaller"] = "refuse",
        ghost_averages: Literal["step", "group"] = "step",
        activation: Any = None,
        **kwargs: Any,
    ) -> None:
        backend()
        warn_beside_keras_2()
        super().__init__(**kwargs)
        self.supports_masking = True
        self.axis = read_axis(axis, _arguments.index_of)
        self.momentum = _arguments.read_share("momentum", momentum)
        self.epsilon = _arguments.read_epsilon(epsilon)
        self.center = center
        self.scale = scale
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)
        self.beta_regularizer = regularizers.get(beta_regularizer)
        self.gamma_regularizer = regularizers.get(gamma_regularizer)
        self.beta_constraint = constraints.get(beta_constraint)
        self.gamma_constraint = constraints.get(gamma_constraint)
        check_switches(
            center=center,
            scale=scale,
            renorm=renorm,
            synchronized=synchronized,
            fused=fused,
            zero_debias_moving_mean=zero_debias_moving_mean,
        )
        self.renorm = renorm
        if renorm:
            renorm_clipping = renorm_clipping or {}
            check_bounds(read_clip(renorm_clipping), lambda bound: bound is not None)
        self.renorm_clipping = renorm_clipping
        self.renorm_momentum = _arguments.read_share("renorm_momentum", renorm_momentum)
        self.synchronized = synchronized
        self.wants_kernel = fused
        self.virtual_batch_size = read_size(virtual_batch_size)
        self.ghost_order = ghost_order
        check_adjustment(adjustment)
        self.adjustment = adjustment
        self.zero_debias_moving_mean = zero_debias_moving_mean
        self.variance = variance
        self.ghost_remainder = ghost_remainder
        self.ghost_averages = ghost_averages
        self.activation = _activation.read(activation)
        self.gamma = self.beta = self.moving_mean = self.moving_variance = None
        _arguments.options_of(self)

    @property
    def fused(self) -> bool | None:
        """Whether Keras 2 would run its fused kernel: as requested before the layer is built, as resolved after."""
        return _arguments.resolve_fused(self, None if self.input_spec is None else self.input_spec.ndim)

    def build(self, input_shape: Any) -> None:
        options = _arguments.options_of(self)
        shape = tuple(input_shape)
        axes = _arguments.build_axes(options, shape)
        _variables.create(self, options, _variables.variable_shape(options, axes, shape))
        if isinstance(self.activation, keras.layers.Layer) and not self.activation.built:
            self.activation.build(shape)
        self.input_spec = keras.layers.InputSpec(ndim=len(shape), axes={axis: shape[axis] for axis in axes})

    def call(
        self,
        inputs: Tensor,
        training: Any = None,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
        residual: Tensor | None = None,
        inputs_mask: Tensor | None = None,
    ) -> Tensor:
        mask = inputs_mask if mask is None else mask
        inputs, residual = (as_tensor(each, self.compute_dtype) for each in (inputs, residual))
        check_residual(inputs, residual)
        if backend().is_ragged(inputs):
            check_weights(inputs, mask, sample_weight)
            y = call_ragged(self, self._call_dense, inputs, training, mask, sample_weight, residual)
        else:
            y = self._call_dense(inputs, training, mask, sample_weight, residual)
        return _activation.activate(self.activation, y)

    def compute_output_spec(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # Keras asks this of symbolic inputs, which `call` does not see.
        check_residual(inputs, kwargs.get("residual"))
        return super().compute_output_spec(inputs, *args, **kwargs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        canonical_axes(_arguments.options_of(self).axes, len(input_shape))
        return input_shape

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config |= {name: _config.plain(getattr(self, name)) for name in (*PLAIN, *RENORM)}
        config |= {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in PARTS}
        added = {name: getattr(self, name) for name in _config.DEFAULTS} | {"fused": self.wants_kernel}
        config |= {name: value for name, value in added.items() if value != _config.DEFAULTS[name]}
        if self.virtual_batch_size is not None:
            config["ghost_order"] = self.ghost_order
        if self.activation is not None:
            config["activation"] = _activation.serialize(self.activation)
        return config | _config.serialize_adjustment(self.adjustment)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "BatchNormalization":
        config = _config.translate(config)
        if isinstance(config.get("adjustment"), dict):
            config["adjustment"] = keras.saving.deserialize_keras_object(config["adjustment"])
        if "activation" in config:
            config["activation"] = _activation.deserialize(config["activation"])
        return super().from_config(config)

    @property
    def _reduction_axes(self) -> list[int]:
        """The axes that statistics are taken over, for subclasses that compute their own."""
        spec: Any = self.input_spec
        return [axis for axis in range(spec.ndim) if axis not in spec.axes]

    def _moments(self, inputs: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and variance of a batch. A subclass may override this, as with Keras 3's own layer.

        Args:
            inputs: in the dtype of the statistics.
            mask: the call's mask, or None.
        """
        layout = self._layout(inputs, None)
        return own_moments(self, _arguments.options_of(self), layout, inputs, mask)

    def _call_dense(
        self,
        inputs: Tensor,
        training: Any,
        mask: Tensor | None,
        sample_weight: Tensor | None,
        residual: Tensor | None,
    ) -> Tensor:
        """The call without an activation that the core does not know."""
        check_weights(inputs, mask, sample_weight)
        return backend().either(
            training if self.trainable else False,
            lambda: self._train(inputs, mask, sample_weight, residual),
            lambda: self._infer(inputs, residual),
        )

    def _train(
        self, inputs: Tensor, mask: Tensor | None, sample_weight: Tensor | None, residual: Tensor | None
    ) -> Tensor:
        options, tools = _arguments.options_of(self), backend()
        ops = tools.engine.ops
        x = as_float(inputs)
        if options.ghost is not None and options.ghost.remainder == "refuse":
            x = tools.assert_divisible(x, options.ghost.size)
        layout = self._layout(x, options.ghost)
        plain = mask is None and sample_weight is None and self.adjustment is None
        plain = plain and residual is None and options.activation is None
        if plain and not overrides_moments(self):
            y = tools.train_plainly(self, options, layout, x)
            if y is not None:
                return self._as_computed(y)
        dtype = statistics_dtype(x)
        engine, weights = tools.engine, None
        if overrides_moments(self):
            taken = ask_moments(self, options, layout, keras.ops.cast(x, dtype), mask, sample_weight)
            engine, options = given(engine, taken), replace(options, synchronized=False)
        else:
            weights = merge_weights(x, mask, sample_weight, dtype)
        adjustment = None
        if self.adjustment is not None:
            adjustment = adjustment_for(self.adjustment, tools.dynamic_shape(x), len(x.shape), dtype)
        inputs = tools.recall(self, _variables.inputs_of(self, x, weights, options, residual))
        y, batch = step.train(engine, options, layout, inputs, adjustment)
        variables = {slot: getattr(self, name) for slot, name in _variables.state_names(options).items()}
        _variables.advance(ops, options, variables, batch, ops.stat_dtype(x))
        return self._as_computed(y)

    def _infer(self, inputs: Tensor, residual: Tensor | None) -> Tensor:
        options, x, tools = _arguments.options_of(self), as_float(inputs), backend()
        layout = self._layout(x, None)
        y = tools.infer_plainly(self, options, layout, x, residual)
        if y is None:
            inputs = _variables.inputs_of(self, x, None, options, residual)
            y = step.infer(tools.engine, options, layout, inputs)
        return self._as_computed(y)

    def _as_computed(self, y: Tensor) -> Tensor:
        dtype = self.compute_dtype
        return y if keras.backend.standardize_dtype(y.dtype) == dtype else keras.ops.cast(y, dtype)

    def _layout(self, x: Tensor, ghost: Ghost | None) -> Layout:
        tools = backend()
        sizes = tools.engine.ops.shape(x)
        # The variables know the sizes of the channel axes, even if the graph does not.
        spec: Any = self.input_spec
        known: dict[int, int] = spec.axes
        sizes = [known.get(axis, size) for axis, size in enumerate(sizes)]
        return plan_layout(sizes, tuple(known), ghost, cached=not tools.is_compiling())


remember_own(BatchNormalization)
