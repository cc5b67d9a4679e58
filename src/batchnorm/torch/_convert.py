"""Swapping `torch.nn`'s layers of a model for ours, in place, and back."""

from typing import Any, TypeVar

from torch import nn

from batchnorm.errors import refusal
from batchnorm.torch import _state
from batchnorm.torch._layers import BatchNorm1d, BatchNorm2d, BatchNorm3d, Layer, configure, plan
from batchnorm.torch._settings import Settings

__all__ = ["convert"]

Model = TypeVar("Model", bound=nn.Module)

# Exactly these: a subclass has reasons of its own, and SyncBatchNorm computes something else.
OURS: dict[type, type] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}
OWN = ("settings", "_plain", "_grouped", "_composed_inference", "_key", "_options")


def convert(model: Model, *, back: bool = False, force: bool = False, **options: Any) -> Model:
    """Swap every `torch.nn.BatchNorm1d`, `2d` and `3d` of a model for ours, or ours for those.

    The layers stay the objects that they are and change their class, so that parameters, buffers, hooks,
    training mode, `requires_grad`, optimizers and other references to them are untouched. Subclasses and
    `SyncBatchNorm` are left alone. Renorm's averages start from the running statistics of each layer.

    Args:
        model: a module, which may itself be such a layer.
        back: from ours to `torch.nn`'s.
        force: with `back`, also where a layer has options that `torch.nn` cannot keep.
        options: ours, as keyword arguments of the layers, such as `renorm=True`.

    Returns:
        The same model.

    Raises:
        ValueError: the options do not go together, or going back would lose some. Nothing has been changed then.
        TypeError: there is no such option.
    """
    if back:
        return _back(model, force, options)
    settings = Settings(**options)
    layers = [layer for layer in model.modules() if type(layer) in OURS]
    for layer in layers:
        plan(layer, settings)  # pyright: ignore[reportArgumentType]
    for layer in layers:
        layer.__class__ = OURS[type(layer)]
        configure(layer, settings)
    return model


def _back(model: Model, force: bool, options: dict[str, Any]) -> Model:
    if options:
        raise ValueError(
            refusal(
                f"convert(back=True) was given {', '.join(options)}",
                "torch.nn's layers have none of our options",
                "Leave them out",
            )
        )
    layers = [(name, layer) for name, layer in model.named_modules() if type(layer) in THEIRS]
    for name, layer in layers:
        assert isinstance(layer, Layer)
        if not force and not layer.settings.is_plain and layer.settings.given.keys() - {"fused"}:
            raise ValueError(
                refusal(
                    f"convert(back=True) was asked for, and the layer {name!r} is {layer}",
                    "torch.nn's layer would train otherwise than this one",
                    "Pass force=True to drop these options and their running statistics",
                )
            )
    for _, layer in layers:
        assert isinstance(layer, Layer)
        _state.drop(layer, layer.options)
        for name in OWN:
            layer.__dict__.pop(name, None)
        layer.__class__ = THEIRS[type(layer)]
    return model
