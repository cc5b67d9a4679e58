"""The layers: `torch.nn`'s own, with every option of this package."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn

from batchnorm._core.engine import Epilogue
from batchnorm._core.epilogue import activation_of, follow
from batchnorm._engines.torch import ops, recompute
from batchnorm._engines.torch.aten import batch_norm
from batchnorm._engines.torch.dispatch import route_of_layer
from batchnorm._engines.torch.inference import infer
from batchnorm._engines.torch.private import BatchNorm, buffers_of, in_transform, is_mapped
from batchnorm._engines.torch.tracing import is_traced
from batchnorm.activation import Activation
from batchnorm.errors import format_error
from batchnorm.options import Options
from batchnorm.torch import _state, _training
from batchnorm.torch._settings import Clipping, Settings, assigned, configure, options_of
from batchnorm.torch._twin import twin
from batchnorm.torch._weights import merge_weights

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Layer"]

Tensor = torch.Tensor


class Layer(BatchNorm):
    """What the three layers share."""

    settings: Settings
    _plain: bool
    _grouped: bool
    _composed_inference: bool
    _key: Any
    _options: Options
    _debiased_by: Any
    _is_loaded: bool = False
    # The types that they may have; torch declares those that they usually have.
    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        renorm: bool = False,
        renorm_clipping: Clipping = None,
        renorm_momentum: float = 0.01,
        renorm_form: Literal["current", "debiased"] = "current",
        virtual_batch_size: int | None = None,
        ghost_order: Literal["interleaved", "contiguous"] = "interleaved",
        adjustment: Callable[[Any], Any] | None = None,
        axis: int | Sequence[int] = 1,
        variance: Literal["population", "sample"] | None = None,
        zero_debias: bool = False,
        fused: bool | None = None,
        ghost_remainder: Literal["refuse", "smaller"] = "refuse",
        ghost_averages: Literal["step", "group"] = "step",
        activation: Activation | str | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        configure(
            self,
            Settings(
                renorm,
                renorm_clipping,
                renorm_momentum,
                renorm_form,
                virtual_batch_size,
                ghost_order,
                adjustment,
                axis,
                variance,
                zero_debias,
                fused,
                ghost_remainder,
                ghost_averages,
                activation,
            ),
        )

    @property
    def options(self) -> Options:
        """The options as of now, for the core: programs do assign `momentum`, `eps`, `weight` and `bias`."""
        key = assigned(self)
        if key != self._key:
            self._key, self._options = key, options_of(self, self.settings)
        return self._options

    @property
    def adjustment(self) -> Callable[[Any], Any] | None:
        """The function of the input's shape that returns a factor and an offset."""
        return self.settings.adjustment

    @property
    def activation(self) -> Activation | None:
        """What is applied to the result."""
        return activation_of(self.options)

    def forward(
        self,
        input: Tensor,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        residual: Tensor | None = None,
        activation: Activation | None = None,
    ) -> Tensor:
        self._check_input_dim(input)
        weighted = weight is not None or mask is not None
        epilogue = None
        if residual is not None or activation is not None or self.settings.activation is not None:
            epilogue = _training.epilogue_of(self, input, residual, activation)
        if not self.training and (self.running_mean is not None or self.running_var is not None):
            if weighted:
                axes = [axis % input.dim() for axis in self.settings.axes]
                merge_weights(input.shape, axes, weight, mask, input.dtype)
            return self._infer(input, epilogue)
        momentum: float | None = self.momentum
        traced = is_traced()
        if traced:
            refuse_shared_statistics(self, input)
        if weighted:
            return _training.train(self, input, weight, mask, epilogue)
        route = route_of_layer(
            input, self._plain, self._grouped, momentum is not None, traced, epilogue is not None
        )
        if route == "operation":
            y = self._train_plainly(input, momentum)
            return y if epilogue is None else follow(ops, y, epilogue)
        if route == "kernel":
            return _training.train_grouped(self, input, epilogue)
        return _training.train(self, input, None, None, epilogue)

    def _train_plainly(self, input: Tensor, momentum: float | None) -> Tensor:
        """One call of PyTorch, whose kernel moves the averages too. Inputs are small here, so each line counts."""
        mean: Any = None
        variance: Any = None
        if self.training and self.track_running_stats:
            mean, variance = self.running_mean, self.running_var
            if recompute.is_frozen():
                # Checkpointing wants the same tensors saved as in the first run.
                mean, variance = mean.clone(), variance.clone()
            else:
                count: Tensor | None = self.num_batches_tracked
                if count is not None:
                    count.add_(1)
                    if momentum is None:
                        momentum = 1.0 / float(count)
        _training.check_step(input, self.eps, input.numel() == input.size(1))
        return batch_norm(
            input,
            self.weight,
            self.bias,
            mean,
            variance,
            True,
            0.0 if momentum is None else momentum,
            self.eps,
        )

    def _infer(self, input: Tensor, epilogue: Epilogue[Tensor] | None) -> Tensor:
        if self._composed_inference:
            return _training.infer(self, input, epilogue)
        mean, variance = self.running_mean, self.running_var
        if mean is None or variance is None:
            y = batch_norm(input, self.weight, self.bias, mean, variance, False, 0.0, self.eps)
            return follow(ops, y, epilogue)
        return infer(self, input, self.weight, self.bias, mean, variance, self.eps, epilogue)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Called by `half()`, `to()` and the like: statistics stay in 32 bits if parameters go to 16."""
        before = dict(buffers_of(self))
        super()._apply(fn, recurse)
        _state.widen(self, before)
        return self

    def reset_running_stats(self) -> None:
        """Start the running statistics again, the added ones among them."""
        super().reset_running_stats()
        # The constructor of torch.nn's layer calls this before settings exist.
        if "settings" in self.__dict__ and self.track_running_stats:
            _state.reset(self, self.options)

    def __prepare_scriptable__(self) -> nn.Module:
        """What `torch.jit.script` compiles for this layer; a subclass with its own `forward` is compiled itself."""
        return twin(self, "torch.jit.script") if type(self).forward is Layer.forward else self

    def extra_repr(self) -> str:
        given = "".join(f", {name}={value!r}" for name, value in self.settings.given.items())
        return super().extra_repr() + given

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: dict[str, Any], prefix: str, *rest: Any
    ) -> None:
        """A checkpoint of `torch.nn`'s layer loads as well: what it lacks starts from its running statistics."""
        mean, variance = (state_dict.get(prefix + name) for name in ("running_mean", "running_var"))
        added = _state.added(self.options)
        is_given = any(prefix + name in state_dict for name in added.values())
        if mean is not None and variance is not None and not is_given:
            values = _state.start(self.options, mean, variance)
            for slot, name in added.items():
                if getattr(self, name) is not None:
                    state_dict[prefix + name] = values[slot]
        self._is_loaded = "biased" in added and prefix + added["biased"] in state_dict
        super()._load_from_state_dict(state_dict, prefix, *rest)
        _state.widen(self, {})  # load_state_dict(..., assign=True) takes the checkpoint's own tensors


def refuse_shared_statistics(layer: Any, input: Tensor) -> None:
    """Refuse training under `torch.func.vmap`, where each example would write its own statistics into the one set."""
    if not in_transform() or layer.running_mean is None or not _state.moves(layer):
        return
    if is_mapped(input) and not is_mapped(layer.running_mean):
        raise RuntimeError(
            format_error(
                f"{type(layer).__name__} was called in training mode under torch.func.vmap",
                "Each example of the map would be a batch of its own, with statistics that cannot be written into the "
                "one running mean and variance",
                "Call eval() for per-example gradients, map over stacked buffers too (torch.func.stack_module_state), "
                "or pass track_running_stats=False if each mapped batch should have its own statistics",
            )
        )


class BatchNorm1d(Layer, nn.BatchNorm1d):  # pyright: ignore[reportIncompatibleMethodOverride]
    """`torch.nn.BatchNorm1d` with every option; see `BatchNorm2d`. Inputs are [N, C] or [N, C, L].

    Examples:
        >>> import torch
        >>> from batchnorm.torch import BatchNorm1d
        >>> layer = BatchNorm1d(1, virtual_batch_size=2, ghost_order="contiguous")
        >>> y = layer(torch.tensor([[1.0], [3.0], [10.0], [30.0]]))
        >>> [round(value, 2) for value in y.flatten().tolist()]
        [-1.0, 1.0, -1.0, 1.0]
    """


class BatchNorm2d(Layer, nn.BatchNorm2d):  # pyright: ignore[reportIncompatibleMethodOverride]
    """`torch.nn.BatchNorm2d` with the options of this package.

    Trained on a batch with mean μ and variance σ², y = act(γ·(x − μ) / √(σ² + ε) + β + z), z being the residual if
    there is one; in evaluation the running statistics take the place of μ and σ². Arguments, buffers, `state_dict`
    and numbers are those of `torch.nn` if none of our options is given; PyTorch's own kernel then runs, or ours on
    large inputs. Options that need more running statistics add buffers; no others do.

    The layer is an instance of `torch.nn.BatchNorm2d`, so programs that look for that class find it.
    `SyncBatchNorm.convert_sync_batchnorm` finds it too, and drops our options.

    Whatever a program assigns takes effect at once, as on `torch.nn`'s layers: `momentum`, `eps`,
    `track_running_stats`, parameters and running statistics. In training without tracking, and once `running_mean` and
    `running_var` are None, only the batch's statistics normalize: renorm and zero-debias have nothing to compare with
    and no effect. With `momentum=None`, which `torch.optim.swa_utils.update_bn` sets temporarily, zero-debias has no
    bias to remove.

    Tools that compare a layer's exact type (`torch.fx.experimental.optimization.fuse`, `prepare_fx`) leave this one
    as it is; call `convert(model, back=True)` first.

    What differs from `torch.nn`: an empty batch leaves the statistics as they are, and statistics are kept in float32
    if the layer is created in or cast to 16 bits.

    Args:
        num_features: channels; for several axes the product of their sizes.
        eps: added to the variance.
        momentum: share of the new value in the running averages; None for a plain average over all batches.
        affine: whether γ (`weight`) and β (`bias`) are trained.
        track_running_stats: whether there are running statistics; without them evaluation uses the batch's.
        bias: whether an affine layer has a β.
        renorm: batch renormalization (https://arxiv.org/abs/1702.03275).
        renorm_clipping: bounds "rmin", "rmax" and "dmax" of its corrections; or a function that is called with
            the number of training steps before this one, a tensor, and returns such bounds
            (`clipping_schedule` makes one).
        renorm_momentum: share of the new value in renorm's averages.
        renorm_form: "current", or "debiased" as in TensorFlow up to 1.14.
        virtual_batch_size: examples in a ghost batch (https://arxiv.org/abs/1705.08741). In training the batch
            must be a multiple of it unless `ghost_remainder` is "smaller"; in evaluation it has no effect.
        ghost_order: "interleaved" puts example i into ghost batch i mod (batch / size); "contiguous" puts
            neighbors together, as a loop over chunks does.
        adjustment: function of the input's shape that returns a factor and an offset, which are applied
            after the normalization and before γ and β, in training only.
        axis: the channel axis, or several.
        variance: estimator stored in `running_var`: "sample" as in `torch.nn`, or "population". None means "sample",
            or "population" with renorm, which supports no other.
        zero_debias: make the running mean an average over the steps so far, free of its initial value.
        fused: None takes the fastest way there is, False plain operations. True requires a kernel in training, either
            PyTorch's own or one of this package's (only the latter support renorm, weights and masks); if none can be
            used, the call is refused and changes nothing. The numbers are the same.
        ghost_remainder: what happens if the batch is not a multiple of `virtual_batch_size`: "refuse" raises an error,
            "smaller" makes smaller groups, in contiguous order those of `torch.chunk`.
        ghost_averages: "step" moves the running statistics once per step, towards the mean of the groups'
            statistics; "group" moves them once per group in turn, as a loop over chunks does. Not with renorm or
            zero_debias, and without effect if momentum=None, which averages over steps.
        activation: applied to the result in the same pass: a name such as "relu", or a `batchnorm.Activation`,
            whose docstring lists them.

    Call arguments:
        input: [N, C, H, W], of any memory format, which is kept.
        weight: how much each position counts in the statistics, not negative (γ is `self.weight`): [N],
            [N, H, W], or any shape of the input's rank that broadcasts to it. In training only. Negative weights and
            NaN are refused if they are in CPU memory and the program is not being traced.
        mask: the same as booleans; False leaves a position out of the statistics.
        residual: a tensor of the input's shape that is added to the normalized numbers before the activation.
        activation: a `batchnorm.Activation` for this call, in place of the layer's own.

    Returns:
        The normalized tensor, in the shape and dtype of the input.

    Raises:
        ValueError: the options cannot be combined; a weight is negative or NaN; in training there is only one value
            per channel and group, as in `torch.nn`; or `fused=True` asks for a kernel and none can be used.
        RuntimeError: training under `torch.func.vmap` would write statistics of single examples.

    Examples:
        >>> import torch
        >>> from batchnorm.torch import BatchNorm2d
        >>> layer = BatchNorm2d(3, renorm=True, renorm_clipping={"rmax": 3.0, "dmax": 5.0})
        >>> layer(torch.rand(8, 3, 4, 4)).shape
        torch.Size([8, 3, 4, 4])
        >>> [name for name, _ in layer.named_buffers() if name.startswith("renorm")]
        ['renorm_mean', 'renorm_stddev']
    """


class BatchNorm3d(Layer, nn.BatchNorm3d):  # pyright: ignore[reportIncompatibleMethodOverride]
    """`torch.nn.BatchNorm3d` with every option; see `BatchNorm2d`. Inputs are [N, C, D, H, W].

    Examples:
        >>> import torch
        >>> from batchnorm.torch import BatchNorm3d
        >>> layer = BatchNorm3d(2, momentum=1.0, variance="population")
        >>> y = layer(torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1, 1).expand(2, 2, 4, 4, 4))
        >>> layer.running_mean.tolist(), layer.running_var.tolist()
        ([2.0, 2.0], [1.0, 1.0])
    """
