"""Giving a layer its settings: at construction, by `convert`, and when a lazy layer learns its sizes."""

from typing import Any

from torch import nn

from batchnorm._faces.clip import read_clip
from batchnorm.errors import format_error
from batchnorm.options import Options
from batchnorm.torch import _state
from batchnorm.torch._settings import Settings, options_of

__all__ = ["assigned", "configure", "describe", "options_for", "plan"]


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
    return options_for(layer, settings)


def options_for(layer: Any, settings: Settings) -> Options:
    """The same, for settings that go together."""
    clip = None
    if not callable(settings.renorm_clipping):
        clip = read_clip(settings.renorm_clipping)
    return options_of(
        settings, layer.momentum, layer.eps, clip, layer.weight is not None, layer.bias is not None
    )


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
