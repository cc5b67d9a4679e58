"""The options of a layer beyond `torch.nn`'s, and all its options as the core's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from batchnorm import _kernels
from batchnorm._faces import names
from batchnorm._faces.adjustment import check_adjustment
from batchnorm._faces.axes import axes_of, read_axis, read_size
from batchnorm._faces.clip import check_bounds, read_clip
from batchnorm._faces.names import reworded
from batchnorm._faces.switches import check_switches
from batchnorm.errors import format_error
from batchnorm.options import Clip, Ghost, Options, Renorm, check_share

__all__ = ["Clipping", "Settings", "options_of"]

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

    def __post_init__(self) -> None:
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
        """Whether this is what `torch.nn`'s own layers do."""
        return self.is_grouped and self.axes == (1,) and self.size is None

    @property
    def is_grouped(self) -> bool:
        """Whether this is what they do, except for the axes and ghost batches."""
        asked = (self.renorm, self.adjustment, self.zero_debias, self.fused is False)
        of_ghosts = (self.ghost_remainder, self.ghost_averages) != ("refuse", "step")
        return not any(asked) and self.estimator == "sample" and (self.size is None or not of_ghosts)

    @property
    def given(self) -> dict[str, Any]:
        """What differs from the defaults."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}


def options_of(
    settings: Settings, momentum: Any, epsilon: float, clip: Clip | None, with_gamma: bool, with_beta: bool
) -> Options:
    """All that determines the numbers. `momentum` is the share of the new value; None means a plain average."""
    if momentum is not None:
        check_share("momentum=%r", momentum, OF_NEW)
    renorm = ghost = None
    try:
        if settings.renorm:
            renorm = Renorm(clip or Clip(), 1.0 - settings.renorm_momentum, settings.renorm_form)
        if settings.size is not None:
            # A plain average weighs all steps alike, however many groups each has.
            averages = "step" if momentum is None else settings.ghost_averages
            ghost = Ghost(settings.size, settings.ghost_order, settings.ghost_remainder, averages)
        return Options(
            settings.axes,
            # For a plain average it changes with every step.
            decay=0.0 if momentum is None else 1.0 - momentum,
            epsilon=epsilon,
            with_gamma=with_gamma,
            with_beta=with_beta,
            variance=settings.estimator,
            renorm=renorm,
            ghost=ghost,
            debias_mean=settings.zero_debias,
            fused=settings.fused,
        )
    except (TypeError, ValueError) as error:
        raise reworded(error, NAMES) from None
