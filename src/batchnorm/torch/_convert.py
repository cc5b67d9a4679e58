"""Swapping `torch.nn`'s layers of a model for ours, in place, and back."""

from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from batchnorm._engines.torch.private import BatchNorm
from batchnorm._faces.switches import check_switches
from batchnorm.errors import format_error, warn_user
from batchnorm.torch import _state, _twin
from batchnorm.torch._fuse import fuse as fuse_calls
from batchnorm.torch._fuse import take_apart
from batchnorm.torch._join import norm_act
from batchnorm.torch._layers import BatchNorm1d, BatchNorm2d, BatchNorm3d, Layer
from batchnorm.torch._lazy import LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d
from batchnorm.torch._settings import Settings, configure, describe, plan

__all__ = ["convert"]

Model = TypeVar("Model", bound=nn.Module)

READY: dict[type, type] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
}
LAZY: dict[type, type] = {
    nn.LazyBatchNorm1d: LazyBatchNorm1d,
    nn.LazyBatchNorm2d: LazyBatchNorm2d,
    nn.LazyBatchNorm3d: LazyBatchNorm3d,
}
OURS = READY | LAZY
RUNNING = ("running_mean", "running_var")
THEIRS = {ours: theirs for theirs, ours in OURS.items()}

_twin.register(READY)


def convert(
    model: Model, *, back: bool = False, force: bool = False, fuse: bool = False, **options: Any
) -> Model:
    """Swap every `torch.nn.BatchNorm1d`, `2d` and `3d` of a model for ours, or ours for those.

    The layers remain the same objects and only change their class, so parameters, buffers, hooks, training mode,
    `requires_grad`, optimizers and other references to them are untouched. Renorm's averages start from the running
    statistics of each layer, but `zero_debias` starts the running mean anew: after one more training step it is the
    mean of that step's batch.

    Lazy layers are swapped before they know their sizes, and parametrized layers keep their parametrizations.
    Subclasses are swapped if they leave the normalization to `torch.nn`'s `forward`, and so is timm's
    `BatchNormAct2d`; they remain instances of their class. Layers that look like batch normalization but cannot be
    swapped (`SyncBatchNorm`, subclasses that normalize by themselves, frozen and scripted layers) stay as they are,
    and one warning names each with the reason.

    With `fuse=True`, a batch norm and the activation behind it become one call, y = act(BN(x)), and so do a batch norm,
    the addition of a residual z and an activation, y = act(BN(x) + z). The calls are found in `nn.Sequential`s, whose
    children follow each other, and by following the `forward` of every other module that calls one of our layers
    itself; timm's `BatchNormAct2d` takes in its own activation. The modules that call the layers get a class derived
    from their own; modules, names, hooks and checkpoints stay as they are. A hook on the batch norm or the activation
    keeps the two calls apart, whenever it is added, and so does anything else that would change a number.
    `batchnorm.torch.joined` lists what was joined, and why the rest was not.

    Args:
        model: a module, which may itself be such a layer.
        back: from ours to `torch.nn`'s.
        force: with `back`, convert even layers with options that `torch.nn` does not have, and drop those options. An
            activation that a layer was built with is such an option; what `fuse` joined needs no force.
        fuse: join batch norms with the activations and additions behind them.
        options: ours, as keyword arguments of the layers, such as `renorm=True`.

    Returns:
        The same model.

    Raises:
        ValueError: the options cannot be combined, or going back would lose some. The model is unchanged then.
        TypeError: there is no such option.

    Warns:
        UserWarning: layers were left as they are; or with `fuse`, an activation follows a batch norm, or may, and
            could not be joined.

    Examples:
        >>> import torch
        >>> from batchnorm.torch import BatchNorm1d, convert
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
        >>> isinstance(convert(model, zero_debias=True)[1], BatchNorm1d)
        True
        >>> type(convert(model, back=True, force=True)[1]) is torch.nn.BatchNorm1d
        True
        >>> print(convert(torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.ReLU()), fuse=True))
        Sequential(
          joined: 0 + relu
          (0): BatchNorm1d(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
          (1): ReLU()
        )
    """
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            format_error(
                f"convert was given a {type(model).__name__}",
                "It swaps the layers of a model",
                "Pass a torch.nn.Module",
            )
        )
    known = [each.name for each in fields(Settings)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(
            format_error(
                f"convert was given {', '.join(f'{name}={options[name]!r}' for name in unknown)}",
                "Its options are those that torch.nn's layers do not have; momentum and eps stay each layer's own",
                f"Pass some of {', '.join(known)}",
            )
        )
    check_switches(back=back, force=force, fuse=fuse)
    if back and (options or fuse):
        raise ValueError(
            format_error(
                f"convert(back=True) was given {', '.join([*options, *(['fuse=True'] if fuse else [])])}",
                "torch.nn's layers have none of our options, and take no activation",
                "Leave them out",
            )
        )
    settings = Settings(**options)
    layers: list[tuple[Any, type]] = []
    left: list[tuple[str, Any, str]] = []
    for path, layer in model.named_modules():
        found = _theirs_for(path, layer, force) if back else _ours_for(layer, settings)
        if isinstance(found, str):
            left.append((path, layer, found))
        elif found is not None:
            layers.append((layer, found))
    # First check every layer, so that an error leaves the model as it was.
    for layer, _ in layers:
        if not back:
            plan(layer, settings)
    if back:
        left += take_apart(model)
    for layer, cls in layers:
        (_drop if back else _adopt)(layer, cls, settings)
    _tell("left {} of the model's layers as they are", left)
    if fuse:
        apart = [each for each in fuse_calls(model) if each.looks_joinable]
        found = [(each.path, model.get_submodule(each.path), str(each.reason)) for each in apart]
        _tell("left {} of the model's batch norms apart from what follows them", found)
    return model


def _adopt(layer: Any, ours: type, settings: Settings) -> None:
    layer.__class__ = ours
    # A lazy layer gets its buffers with its sizes.
    (describe if issubclass(ours, tuple(LAZY)) else configure)(layer, settings)


def _drop(layer: Any, theirs: type, _: Settings) -> None:
    _state.drop(layer, layer.options)
    for name in _twin.OWN:
        layer.__dict__.pop(name, None)
    layer.__class__ = theirs


def _ours_for(layer: nn.Module, settings: Settings) -> type | str | None:
    """The class that a layer is to take on, or why it cannot; None if it is not batch normalization."""
    if isinstance(layer, torch.jit.ScriptModule):
        scripted = "BatchNorm" in getattr(layer, "original_name", "")
        return "it is compiled by torch.jit; convert the model first" if scripted else None
    if isinstance(layer, Layer):
        if layer.settings == settings or settings == Settings():
            return None
        asked = "other options than these" if layer.settings.given else "no options"
        return f"it is one of ours already, with {asked}; convert it back first"
    if isinstance(layer, nn.SyncBatchNorm):
        return "its statistics are those of all processes, and ours those of one"
    if isinstance(layer, BatchNorm):
        cls = parametrize.type_before_parametrizations(layer)
        found = OURS.get(cls) or _subclass_for(layer, cls)
        if isinstance(found, str) or cls is type(layer):
            return found
        return _parametrized(type(layer), found)
    named = "batchnorm" in type(layer).__name__.lower().replace("_", "")
    if named and all(isinstance(getattr(layer, each, None), torch.Tensor) for each in RUNNING):
        return f"{type(layer).__name__} is no subclass of torch.nn's layers and normalizes by itself"
    return None


def _theirs_for(path: str, layer: nn.Module, force: bool) -> type | str | None:
    """The class of `torch.nn`'s that a layer goes back to, or why it cannot; None if it is not ours."""
    if not isinstance(layer, Layer):
        return None
    cls = parametrize.type_before_parametrizations(layer)
    theirs = THEIRS.get(cls) or getattr(cls, "_was", None)
    if theirs is None:
        return f"{cls.__name__} is a subclass of ours, and of nothing else"
    if not force and not _twin.is_kept(layer):
        raise ValueError(
            format_error(
                f"convert(back=True) was asked for, and the layer {path!r} is {layer}",
                "torch.nn's layer would train differently from this one",
                "Pass force=True to drop these options and their running statistics",
            )
        )
    return theirs if cls is type(layer) else _parametrized(type(layer), theirs)


def _subclass_for(layer: nn.Module, cls: type) -> type | str:
    """For a subclass of `torch.nn`'s layer, a class derived from it in which ours replaces `torch.nn`'s `forward`."""
    if issubclass(cls, tuple(LAZY)):
        return "it is a subclass of a lazy layer; convert the model after its first forward pass"
    theirs = next((base for base in READY if issubclass(cls, base)), BatchNorm)
    own = cls.__mro__[: cls.__mro__.index(theirs)]
    is_norm_act = (
        cls.__name__ == "BatchNormAct2d"
        and cls.__module__.partition(".")[0] == "timm"
        and all(isinstance(getattr(layer, each, None), nn.Module) for each in ("drop", "act"))
    )
    if not is_norm_act and not all(
        _is_cooperative(vars(each)["forward"]) for each in own if "forward" in vars(each)
    ):
        return f"the forward method of {cls.__name__} normalizes by itself and would not call ours"
    try:
        return _derived(cls, READY.get(theirs, Layer), is_norm_act)
    except TypeError as error:
        return f"its class cannot be combined with ours ({error})"


def _is_cooperative(forward: Any) -> bool:
    """Whether a method calls the next class's method, as in `super().forward(x)`."""
    code = getattr(forward, "__code__", None)
    return code is not None and "super" in code.co_names and "forward" in code.co_names


@cache
def _derived(cls: type, ours: type, is_norm_act: bool) -> type:
    """A class derived from a subclass of `torch.nn`'s layer, with ours inserted before that layer."""

    def reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
        del protocol
        return _revive, (cls, ours, is_norm_act), self.__getstate__()

    members: dict[str, Any] = {"__module__": cls.__module__, "__reduce_ex__": reduce, "_was": cls}
    if is_norm_act:
        members["forward"] = norm_act
    return type(cls.__name__, (cls, ours), members)


def _revive(cls: type, ours: type, is_norm_act: bool) -> Any:
    """An empty layer of a derived class, for pickles and copies: such a class has no name in any module."""
    made: Any = _derived(cls, ours, is_norm_act)
    return made.__new__(made)


def _parametrized(cls: type, base: type) -> type:
    """The class that `parametrize` made for one layer, rebuilt on another base."""
    members = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    return type(f"Parametrized{base.__name__}", (base,), members)


def _tell(what: str, left: list[tuple[str, Any, str]]) -> None:
    """Warn once about all layers that were left."""
    if not left:
        return
    reasons: dict[str, list[str]] = {}
    for path, layer, reason in left:
        reasons.setdefault(reason, []).append(f"{path or 'the model itself'} ({type(layer).__name__})")
    each = "; ".join(f"{', '.join(paths)}: {reason}" for reason, paths in reasons.items())
    # At the line that called `convert`.
    warn_user(f"convert {what.format(len(left))}. {each}.")
