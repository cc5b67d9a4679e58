"""The module: parameters, state, and one call of `batchnorm.batch_norm`."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from batchnorm._core.state import initial_state, slots
from batchnorm._engines.jax import engine
from batchnorm._faces.adjustment import check_adjustment
from batchnorm._faces.axes import read_axis
from batchnorm._faces.switches import check_switches
from batchnorm.flax import _activation, _arguments
from batchnorm.flax.private import canonicalize_dtype, promote_dtype
from batchnorm.functional import batch_norm
from batchnorm.options import check_share

__all__ = ["BatchNorm"]

Array = Any
# What Flax calls the moving mean and variance; the other slots of the state keep their names.
NAMES = {"moving_mean": "mean", "moving_variance": "var"}
ZEROS, ONES = nnx.initializers.zeros_init(), nnx.initializers.ones_init()


class BatchNorm(nnx.Module):
    """`flax.nnx.BatchNorm` with renorm, ghost batches, weights and the rest.

    Trained on a batch with mean μ and variance σ², y = act(γ·(x − μ) / √(σ² + ε) + β + z), with γ the `scale`, β the
    `bias`, and the `activation` act and the `residual` z if they are given; with `use_running_average` the stored
    `mean` and `var` take the place of μ and σ². Parameters and statistics
    have the names, shapes and kinds (`nnx.Param`, `nnx.BatchStat`) of Flax's, so that `nnx.update` can move the state
    of one into the other.

    What differs from Flax: masked statistics over several devices weight each device by how many unmasked numbers it
    has; a batch without any unmasked number leaves the statistics as they are; statistics are never held or used in
    16 bits; no gradient flows into the stored statistics. Complex inputs are refused; masked numbers must be finite.

    Args:
        num_features: how many channels; with several axes the product of their sizes.
        use_running_average: whether the stored statistics normalize, and stay as they are. None leaves it to the call.
        axis: the channel axis, or several.
        momentum: share that the stored statistics keep of their old value.
        epsilon: added to the variance.
        dtype: of the output; None takes the dtype that x, scale and bias promote to.
        param_dtype: of scale and bias.
        use_bias: whether there is a bias.
        use_scale: whether there is a scale.
        bias_init: initializer of the bias.
        scale_init: initializer of the scale.
        axis_name: the mapped axis, or axes, over whose members the statistics are taken, inside `jax.shard_map`,
            `jax.pmap` or `jax.vmap`. Under a sharded `jit` statistics are global without it.
        axis_index_groups: groups of indices along that axis, each with statistics of its own.
        use_fast_variance: accepted; the variance is always the accurate one, of differences from the mean.
        promote_dtype: function that converts (x, mean, var, scale, bias), given `dtype`, to the dtypes to compute in;
            the mean and var that it returns are not used.
        rngs: random keys of the initializers.
        bias_metadata: metadata of the bias.
        scale_metadata: metadata of the scale.
        renorm: batch renormalization (https://arxiv.org/abs/1702.03275).
        renorm_clipping: bounds "rmin", "rmax" and "dmax" of its corrections, as a mapping; or a function that takes the
            number of training calls so far (an int32 array, kept as the statistic `step`) and returns such a mapping,
            whose values may be arrays.
        renorm_momentum: share that renorm's own averages keep.
        renorm_form: "current", or "debiased" as in TensorFlow 1.14 and earlier.
        virtual_batch_size: examples in a ghost batch (https://arxiv.org/abs/1705.08741). In training the batch must be
            a multiple of it unless `ghost_remainder` is "smaller"; otherwise it has no effect.
        ghost_order: "interleaved" puts example i into ghost batch i mod (batch / size), "contiguous" puts neighbors
            together.
        adjustment: function of the input's shape that returns a factor and an offset, applied after the
            normalization and before scale and bias, in training only.
        variance: estimator stored in `var`: "population", or "sample" as torch does.
        zero_debias: make the stored mean an average over the steps so far, free of its initial value.
        fused: None takes the fastest way there is, False plain operations. True requires the CPU kernels in training;
            a call that cannot use them is refused and changes nothing.
        ghost_remainder: what happens if the batch is not a multiple of `virtual_batch_size`: "refuse" raises an error,
            "smaller" makes smaller groups, in contiguous order those of `torch.chunk`.
        ghost_averages: "step" moves the stored statistics once per step, towards the mean of the groups'
            statistics; "group" moves them once per group in turn, as a loop over chunks does. Not with renorm or
            zero_debias.
        activation: a name of `batchnorm.Activation`'s table, which says what it means ("gelu" is exact, "gelu_tanh" its
            approximation); a function, which means what it does by its defaults (`jax.nn.gelu` is the approximation);
            or a `batchnorm.Activation`. Those of the table are computed with the normalization, in at least 32 bits,
            and rounded once; any other function, or module, is applied to its result.

    Raises:
        ValueError: options that cannot be combined, or values outside their range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from batchnorm.flax import BatchNorm
        >>> module = BatchNorm(1, momentum=0.5, zero_debias=True, rngs=nnx.Rngs(0))
        >>> y = module(jnp.array([[1.0], [3.0]]))
        >>> [round(float(value), 2) for value in y.ravel()], float(module.mean[0])
        ([-1.0, 1.0], 2.0)
    """

    def __init__(
        self,
        num_features: int,
        *,
        use_running_average: bool | None = False,
        axis: int | Sequence[int] = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-5,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        use_bias: bool = True,
        use_scale: bool = True,
        bias_init: Any = ZEROS,
        scale_init: Any = ONES,
        axis_name: str | tuple[str, ...] | None = None,
        axis_index_groups: Any = None,
        use_fast_variance: bool = True,
        promote_dtype: Any = promote_dtype,
        rngs: nnx.Rngs,
        bias_metadata: Mapping[str, Any] = MappingProxyType({}),
        scale_metadata: Mapping[str, Any] = MappingProxyType({}),
        renorm: bool = False,
        renorm_clipping: _arguments.Clipping = None,
        renorm_momentum: float = 0.99,
        renorm_form: Literal["current", "debiased"] = "current",
        virtual_batch_size: int | None = None,
        ghost_order: Literal["interleaved", "contiguous"] = "interleaved",
        adjustment: Callable[[tuple[int, ...]], tuple[Array, Array]] | None = None,
        variance: Literal["population", "sample"] = "population",
        zero_debias: bool = False,
        fused: bool | None = None,
        ghost_remainder: Literal["refuse", "smaller"] = "refuse",
        ghost_averages: Literal["step", "group"] = "step",
        activation: Any = None,
    ) -> None:
        check_switches(
            renorm=renorm, zero_debias=zero_debias, fused=fused, use_running_average=use_running_average
        )
        self.num_features = num_features
        self.use_running_average = use_running_average
        self.axis = read_axis(axis, sequences=(Sequence,))
        check_share("momentum=%r", momentum)
        self.momentum = momentum
        self.epsilon = epsilon
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.use_bias = use_bias
        self.use_scale = use_scale
        self.axis_name = axis_name
        self.axis_index_groups = _arguments.read_groups(axis_index_groups, axis_name)
        self.use_fast_variance = use_fast_variance
        self.promote_dtype = promote_dtype
        self.renorm = renorm
        self.renorm_clipping = _arguments.read_clipping(renorm_clipping, renorm)
        check_share("renorm_momentum=%r", renorm_momentum)
        self.renorm_momentum = renorm_momentum
        self.renorm_form: Any = renorm_form
        self.virtual_batch_size = virtual_batch_size
        self.ghost_order: Any = ghost_order
        self.ghost_remainder: Any = ghost_remainder
        self.ghost_averages: Any = ghost_averages
        check_adjustment(adjustment)
        self.adjustment = adjustment
        self.variance: Any = variance
        self.zero_debias = zero_debias
        self.fused = fused
        self.activation: Any = _activation.read(activation)
        self.step: nnx.BatchStat[Array] | None = (
            nnx.BatchStat(jnp.zeros((), jnp.int32)) if callable(self.renorm_clipping) else nnx.data(None)
        )

        shape = (num_features,)
        self.mean = nnx.BatchStat(jnp.zeros(shape, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(shape, jnp.float32))
        options = _arguments.options_of(self, synchronized=axis_name is not None)
        start = initial_state(engine.ops, options, self.mean[...], self.var[...])
        for slot, value in start.items():
            if slot not in NAMES:
                setattr(self, slot, nnx.BatchStat(value))
        self.scale: nnx.Param[Array] | None = (
            nnx.Param(scale_init(rngs.params(), shape, param_dtype), **scale_metadata)
            if use_scale
            else nnx.data(None)
        )
        self.bias: nnx.Param[Array] | None = (
            nnx.Param(bias_init(rngs.params(), shape, param_dtype), **bias_metadata)
            if use_bias
            else nnx.data(None)
        )

    def __call__(
        self,
        x: Array,
        use_running_average: bool | None = None,
        *,
        mask: Array | None = None,
        weights: Array | None = None,
        residual: Array | None = None,
    ) -> Array:
        """Normalize x, of any rank.

        Args:
            x: the input.
            use_running_average: takes precedence over the module's own.
            mask: booleans that broadcast to x as in NumPy; False leaves a number out of the statistics.
            weights: how much each number counts in the statistics, not negative: [batch], or any shape whose axes are
                the first ones of x, of the same size or 1. Negative weights and NaN are refused if the array is
                in the memory of one CPU and not traced.
            residual: an array of the shape of x that is added before the activation.

        Returns:
            y in the shape of x.

        Raises:
            ValueError: sizes do not fit, a weight is negative or NaN, or neither this call nor the module says whether
                to use the stored statistics.
        """
        training = not _arguments.first_given(use_running_average, self.use_running_average)
        scale, bias = (None if each is None else each[...] for each in (self.scale, self.bias))
        x, _, _, scale, bias = self.promote_dtype(
            (x, self.mean[...], self.var[...], scale, bias), dtype=self.dtype
        )
        given = [value for value in (x, scale, bias) if value is not None]
        dtype = canonicalize_dtype(*given, dtype=self.dtype)
        _arguments.check_features(self, x.shape)
        weights = _arguments.merge_weights(x, mask, weights)
        replicas = _arguments.replicas_of(self) if training else None
        options = _arguments.options_of(self, synchronized=replicas is not None)
        y, state = batch_norm(
            x,
            {name: value for name, value in (("gamma", scale), ("beta", bias)) if value is not None},
            {slot: self._statistic(slot)[...] for slot in slots(options)},
            options,
            training=training,
            weights=weights,
            adjustment=_arguments.adjustment_of(self, x) if training else None,
            residual=None if residual is None else jnp.asarray(residual),
            axis_name=replicas,
        )
        if training:
            for slot, value in state.items():
                self._statistic(slot)[...] = jax.lax.stop_gradient(value)
            if self.step is not None:
                self.step[...] += 1
        return _activation.activate(self.activation, jnp.asarray(y, dtype))

    def set_view(self, use_running_average: bool | None = None) -> None:
        """What `nnx.view` may set.

        Args:
          use_running_average: as in the constructor; None leaves it. (`nnx.view_info` reads this indentation.)
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def _statistic(self, slot: str) -> nnx.BatchStat[Array]:
        return getattr(self, NAMES.get(slot, slot))
