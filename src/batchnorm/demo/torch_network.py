"""The network in PyTorch: through torch.nn's own layer, ours, and the pure function."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from batchnorm import Options, batch_norm, init
from batchnorm.demo.network import (
    CLASSES,
    CONVOLUTIONS,
    DECAY,
    EPSILON,
    GHOST_SIZE,
    LEARNING_RATE,
    Build,
    Weights,
    norm_name,
)
from batchnorm.demo.schedule import renorm_bounds
from batchnorm.torch import BatchNorm2d

__all__ = ["APIS", "METHODS"]

# Makes the normalization for a number of channels; renorm's bounds are in the mapping whenever it runs.
Normalize = Callable[[int, Mapping[str, float]], nn.Module]


class TorchNetwork:
    """The network with the normalization after each convolution, or with none; the convolutions then have offsets."""

    def __init__(self, weights: Weights, normalize: Normalize | None) -> None:
        self._bounds = renorm_bounds(1.0)
        self._model = make_model(normalize, self._bounds)
        self._layers: dict[str, Any] = dict(self._model.named_children())
        values = {name: torch.from_numpy(value) for name, value in weights.items()}
        with torch.no_grad():
            for name in CONVOLUTIONS:
                # From [height, width, inputs, channels].
                self._layers[name].weight.copy_(values[name].permute(3, 2, 0, 1))
            self._layers["dense"].weight.copy_(values["dense/kernel"].T)
            self._layers["dense"].bias.copy_(values["dense/offset"])
        self._optimizer = torch.optim.SGD(self._model.parameters(), LEARNING_RATE)

    def train(self, images: NDArray[Any], labels: NDArray[Any], given: Mapping[str, float]) -> float:
        self._bounds.update({name: given[name] for name in self._bounds if name in given})
        self._optimizer.param_groups[0]["lr"] = given.get("rate", LEARNING_RATE)
        self._optimizer.zero_grad()
        logits = self._model.train()(channels_first(images))
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels))
        loss.backward()
        self._optimizer.step()
        return loss.item()

    @torch.no_grad()
    def logits(self, images: NDArray[Any], training: bool) -> NDArray[Any]:
        # The copy's statistics may move.
        return copy.deepcopy(self._model).train(training)(channels_first(images)).numpy()

    def statistics(self) -> dict[str, NDArray[Any]]:
        norms = {name: self._layers[name] for name in map(norm_name, CONVOLUTIONS)}
        moving = {"moving_mean": "running_mean", "moving_variance": "running_var"}
        return {
            f"{name}/{ours}": getattr(norm, theirs).numpy(force=True)
            for name, norm in norms.items()
            for ours, theirs in moving.items()
            if hasattr(norm, theirs)
        }


def make_model(normalize: Normalize | None, bounds: Mapping[str, float]) -> nn.Sequential:
    """The layers by name."""
    layers: dict[str, nn.Module] = {}
    inputs = 1
    for name, (side, channels, stride, padding) in CONVOLUTIONS.items():
        if padding == "SAME":
            # As TensorFlow does, whose odd row goes below and to the right.
            missing = side - stride
            before, after = missing // 2, missing - missing // 2
            layers[f"{name}_padding"] = nn.ZeroPad2d((before, after, before, after))
        layers[name] = nn.Conv2d(inputs, channels, side, stride, bias=normalize is None)
        layers[norm_name(name)] = normalize(channels, bounds) if normalize else nn.Identity()
        layers[f"{name}_elu"] = nn.ELU()
        if normalize is None:
            nn.init.zeros_(layers[name].bias)  # pyright: ignore[reportArgumentType]
        inputs = channels
    return nn.Sequential(OrderedDict(layers, flatten=nn.Flatten(), dense=nn.Linear(inputs, CLASSES)))


class Functional(nn.Module):
    """The pure function, with its parameters and its state."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The sample's variance is what torch.nn keeps.
        self.options = Options(axes=(1,), decay=DECAY, epsilon=EPSILON, variance="sample")
        params, self.state = init(self.options, (1, channels), like=torch.zeros(()))
        self.params = nn.ParameterDict(params)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        params = dict(self.params.items())
        y, self.state = batch_norm(x, params, self.state, self.options, training=self.training)
        return y

    @property
    def running_mean(self) -> torch.Tensor:
        return self.state["moving_mean"]

    @property
    def running_var(self) -> torch.Tensor:
        return self.state["moving_variance"]


def by_layer(
    layer: Callable[..., nn.Module], channels: int, bounds: Mapping[str, float], **options: Any
) -> nn.Module:
    """A layer with torch.nn's arguments, whose momentum is the share of the new value."""
    del bounds
    return layer(channels, eps=EPSILON, momentum=1.0 - DECAY, **options)


def renormalize(channels: int, bounds: Mapping[str, float]) -> nn.Module:
    """Batch renormalization by bounds that are read at every step."""
    options = {"renorm_momentum": 1.0 - DECAY, "renorm_clipping": lambda _: bounds}
    return by_layer(BatchNorm2d, channels, bounds, renorm=True, **options)


def channels_first(images: NDArray[Any]) -> torch.Tensor:
    """Images [count, height, width, 1] as [count, 1, height, width]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


ours = partial(by_layer, BatchNorm2d)
APIS: dict[str, Build] = {
    "torch.nn": partial(TorchNetwork, normalize=partial(by_layer, nn.BatchNorm2d)),
    "batchnorm.torch": partial(TorchNetwork, normalize=ours),
    "batch_norm": partial(TorchNetwork, normalize=lambda channels, _: Functional(channels)),
}
METHODS: dict[str, Build] = {
    "plain": partial(TorchNetwork, normalize=ours),
    "renorm": partial(TorchNetwork, normalize=renormalize),
    "ghost": partial(TorchNetwork, normalize=partial(ours, virtual_batch_size=GHOST_SIZE)),
    "none": partial(TorchNetwork, normalize=None),
}
