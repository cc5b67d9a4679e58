"""The options of a layer beyond `torch.nn`'s, all its options as the core's, and giving a layer its settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from torch import nn

from batchnorm import _kernels
from batchnorm._faces import names
from batchnorm._faces.adjustment import check_adjustment
from batchnorm._faces.axes import axes_of, read_axis, read_size
from batchnorm._faces.clip import check_bounds, read_clip
from batchnorm._faces.names import reworded
from batchnorm._faces.switches import check_switches
from batchnorm.activation import Activation, read_activation
from batchnorm.errors import format_error
from batchnorm.options import Clip, Ghost, Options, Renorm, check_share
from batchnorm.torch import _state

__all__ = ["Clipping", "Settings", "assigned", "configure", "describe", "options_of", "plan"]

# The core's names for what the layers' arguments say.
NAMES = names.NAMES | {"Options.epsilon": "eps"}
# PyTorch's momentum is one minus a decay.
OF_NEW = ("It is the share of the new value in a moving average", "Pass a number such as 0.1")
Clipping = Mapping[str, Any] | Callable[[Any], Mapping[str, Any]] | None


@dataclass(frozen=True)
class Settings:
    """The options that `torch.nn` does not have; the layers' docstring describes them."""

    renorm: bool = False
    renorm_clipping: Clipping = None
    renorm_momentum: float = 0.01
    renorm_form: Literal["current", "debiased"] = "current"
    virtual_batch_size: int | None = None
    ghost_order: Literal["interleaved", "contiguous"] = "interleaved"
    adjustment: Callable[[Any], Any] | None = None
    axis: int | Sequence[int] = 1
    variance: Literal["population", "sample"] | None = None
    zero_debias: bool = False
    fused: bool | None = None
    ghost_remainder: Literal["refuse", "smaller"] = "refuse"
    ghost_averages: Literal["step", "group"] = "step"
    activation: Activation | str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "activation", read_activation("activation=%r", self.activation))
        check_switches(renorm=self.renorm, zero_debias=self.zero_debias, fused=self.fused)
        check_share("renorm_momentum=%r", self.renorm_momentum, OF_NEW)
        if self.renorm and not callable(self.renorm_clipping):
            check_bounds(read_clip(self.renorm_clipping))
        check_adjustment(self.adjustment)
        if self.fused and self.renorm and not _kernels.available():
            raise ValueError(
                format_error(
                    "fused=True was asked for with renorm=True",
                    "PyTorch's kernel cannot correct the batch's statistics, and the CPU kernels are "
                    f"{_kernels.why_missing()}",
                    "Leave fused at None, which takes the fastest way there is",
                )
            )

    @property
    def axes(self) -> tuple[int, ...]:
        return axes_of(read_axis(self.axis))

    @property
    def size(self) -> Any:
        """The ghost batch size."""
        return read_size(self.virtual_batch_size)

    @property
    def estimator(self) -> Literal["population", "sample"]:
        """The sample's variance is stored, as in `torch.nn`, and with renorm, which has none, the population's."""
        if self.variance is None:
            return "population" if self.renorm else "sample"
        return self.variance

    @property
    def is_plain(self) -> bool:
        """Whether this is what `torch.nn`'s own layers do, except for the activation."""
        return self.is_grouped and self.axes == (1,) and self.size is None

    @property
    def is_grouped(self) -> bool:
        """Whether this is what they do, except for the activation, the axes and ghost batches."""
        asked = (self.renorm, self.adjustment, self.zero_debias, self.fused is False)
        of_ghosts = (self.ghost_remainder, self.ghost_averages) != ("refuse", "step")
        return not any(asked) and self.estimator == "sample" and (self.size is None or not of_ghosts)

    @property
    def given(self) -> dict[str, Any]:
        """What differs from the defaults."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}


def plan(layer: Any, settings: Settings) -> Options:
    """The core's options for a layer of `torch.nn`'s or ours with these settings, the schedule left open.

    Raises:
        ValueError: they cannot be combined.
    """
    if not layer.track_running_stats and (settings.renorm or settings.zero_debias):
        asked = "renorm" if settings.renorm else "zero_debias"
        raise ValueError(
            format_error(
                f"{asked}=True was asked for with track_running_stats=False",
                "It compares the batch with the running statistics",
                f"Leave track_running_stats at True, or {asked} out",
            )
        )
    if layer.momentum is None and settings.zero_debias:
        raise ValueError(
            format_error(
                "zero_debias=True was asked for with momentum=None",
                "A plain average over the batches has no bias towards its start",
                "Leave zero_debias out, or pass a momentum such as 0.1",
            )
        )
    return options_of(layer, settings)


def options_of(layer: Any, settings: Settings, clip: Clip | None = None) -> Options:
    """The same, for settings that go together; `clip` holds a schedule's bounds for one step."""
    if clip is None:
        clip = Clip() if callable(settings.renorm_clipping) else read_clip(settings.renorm_clipping)
    momentum = layer.momentum
    if momentum is not None:
        check_share("momentum=%r", momentum, OF_NEW)
    renorm = ghost = None
    try:
        if settings.renorm:
            renorm = Renorm(clip, 1.0 - settings.renorm_momentum, settings.renorm_form)
        if settings.size is not None:
            # A plain average weighs all steps alike, however many groups each has.
            averages = "step" if momentum is None else settings.ghost_averages
            ghost = Ghost(settings.size, settings.ghost_order, settings.ghost_remainder, averages)
        return Options(
            settings.axes,
            # For a plain average it changes with every step.
            decay=0.0 if momentum is None else 1.0 - momentum,
            epsilon=layer.eps,
            with_gamma=layer.weight is not None,
            with_beta=layer.bias is not None,
            variance=settings.estimator,
            renorm=renorm,
            ghost=ghost,
            debias_mean=settings.zero_debias,
            fused=settings.fused,
            activation=settings.activation,
        )
    except (TypeError, ValueError) as error:
        raise reworded(error, NAMES) from None


def assigned(layer: Any) -> tuple[Any, ...]:
    """The attributes that a program may assign and that the options depend on."""
    return layer.momentum, layer.eps, layer.weight is None, layer.bias is None


def configure(layer: Any, settings: Settings) -> None:
    """Give a layer its settings, and the buffers that they ask for."""
    describe(layer, settings)
    _state.register(layer, layer.options)


def describe(layer: Any, settings: Settings) -> None:
    """Give a layer its settings."""
    options = plan(layer, settings)
    layer.settings, layer._plain, layer._grouped = settings, settings.is_plain, settings.is_grouped
    layer._composed_inference = settings.axes != (1,) or settings.fused is False
    layer._key, layer._options = assigned(layer), options
    layer._debiased_by, layer._is_loaded = layer.momentum, False
    # Tracers of torch.fx keep torch.nn's modules whole, and read the module name from the instance.
    layer.__module__ = nn.BatchNorm1d.__module__
