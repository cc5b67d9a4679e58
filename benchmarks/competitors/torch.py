"""PyTorch, eager: our layers and torch.nn's; for ghost batches a loop of torch's own function over chunks."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

import batchnorm.torch as ours
from benchmarks.cases import GHOST_SIZE, Case
from benchmarks.competitors.data import APART, OURS, Data, Step, historical_options
from benchmarks.competitors.torch_networks import network_steps

__all__ = ["steps"]


def steps(case: Case, data: Data) -> dict[str, Step]:
    x, dy, mask = (_channels_second(case, torch.from_numpy(v)) for v in (data.x, data.dy, _full(data.mask)))
    if case.option == "bfloat16":
        x, dy = x.bfloat16(), dy.bfloat16()
    if case.phase == "network":
        return network_steps(case, x)
    name, channels = ("BatchNorm1d" if x.ndim == 2 else "BatchNorm2d"), x.shape[1]
    if case.activates:
        return _followed(case, getattr(ours, name), getattr(nn, name), x, dy)
    layer = getattr(ours, name)(channels, **historical_options(case))
    masked = {"mask": mask} if case.option == "weighted" else {}
    made = {OURS: _step(lambda x: layer(x, **masked), layer, [layer.weight, layer.bias], case, x, dy)}
    peer = getattr(nn, name)(channels)
    trained = [peer.weight, peer.bias]
    if case.option in ("plain", "bfloat16"):
        made["torch.nn"] = _step(peer, peer, trained, case, x, dy)
    if case.option == "ghost 16":
        made["loop over chunks"] = _step(lambda x: _by_chunks(peer, x), peer, trained, case, x, dy)
    return made


def _followed(case: Case, own: Any, peer: Any, x: Any, dy: Any) -> dict[str, Step]:
    """A layer, an addition and a ReLU: in our layer, or one after another."""
    z = dy.flip(0).contiguous(memory_format=_memory_format(x)) if case.adds else None
    joint = own(x.shape[1], activation="relu")

    def apart(layer: Any) -> Callable[..., Any]:
        return lambda x, z=None: nn.functional.relu(layer(x) if z is None else layer(x) + z, inplace=True)

    made = {
        OURS: _step(lambda x, z=None: joint(x, residual=z), joint, [joint.weight, joint.bias], case, x, dy, z)
    }
    for name, layer in {APART: own(x.shape[1]), "torch.nn": peer(x.shape[1])}.items():
        made[name] = _step(apart(layer), layer, [layer.weight, layer.bias], case, x, dy, z)
    return made


def _memory_format(x: Any) -> torch.memory_format:
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def _step(
    call: Callable[..., Any],
    layer: Any,
    parameters: Sequence[Any],
    case: Case,
    x: Any,
    dy: Any,
    z: Any = None,
) -> Step:
    layer.train(case.phase != "inference")
    trains = case.phase == "training step"
    inputs = [each.detach().requires_grad_(trains) for each in (x, z) if each is not None]

    def step(read: bool = False) -> Any:
        if case.phase == "inference":
            with torch.no_grad():
                results = [call(*inputs)]
        elif case.phase == "forward":
            results = [call(*inputs)]
        else:
            y = call(*inputs)
            results = [y, *torch.autograd.grad(y, [*inputs, *parameters], dy)]
        return [value.detach().float().numpy() for value in results] if read else results

    return step


def _by_chunks(layer: Any, x: Any) -> Any:
    """Each ghost batch through torch's kernel; examples are interleaved as in TensorFlow."""
    groups = x.shape[0] // GHOST_SIZE
    chunks = [
        nn.functional.batch_norm(x[group::groups], None, None, layer.weight, layer.bias, True, 0.0, layer.eps)
        for group in range(groups)
    ]
    return torch.stack(chunks, dim=1).reshape(x.shape)


def _channels_second(case: Case, x: Any) -> Any:
    """torch's order of axes; where the channels lie last they go on lying last, as torch.channels_last."""
    return x.permute(0, 3, 1, 2) if case.axis == -1 and x.ndim == 4 else x


def _full(mask: Any) -> Any:
    """The mask with the axis that Keras' masks lack."""
    return mask[..., None]
