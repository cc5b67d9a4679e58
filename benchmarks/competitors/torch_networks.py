"""torchvision's ResNet-18 and MobileNetV2, built from torch.nn's modules, and after `batchnorm.torch.convert`,
joined with what follows the normalization or not."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from batchnorm.torch import convert
from benchmarks.cases import CLASSES, Case
from benchmarks.competitors.data import APART, OURS, RATE, Step, losses_of, make_labels

__all__ = ["network_steps"]


def network_steps(case: Case, x: Any) -> dict[str, Step]:
    """Steps of stochastic gradient descent, eager, from the same start; x is [N, C, H, W]."""
    torch.manual_seed(0)
    network = NETWORKS[case.network]()
    if case.axis == -1:
        network = network.to(memory_format=torch.channels_last)
    labels = torch.from_numpy(make_labels(case))
    own, apart = convert(deepcopy(network), fuse=True), convert(deepcopy(network))
    made = {OURS: own, APART: apart, "torch.nn": network}
    return {name: _step(each, x, labels) for name, each in made.items()}


def _step(network: nn.Module, x: Any, labels: Any) -> Step:
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)

    def one() -> Any:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def step(read: bool = False) -> Any:
        return losses_of(one) if read else one()

    return step


def _convolve(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution and its normalization."""
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class _Residual(nn.Module):
    """Adds a branch's output to the input; ReLU may follow."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut, self.last = branch, shortcut, last

    def forward(self, x: Any) -> Any:
        return self.last(self.branch(x) + self.shortcut(x))


def _head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]


def _resnet18() -> nn.Module:
    layers = [*_convolve(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for outputs, first_stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for stride in (first_stride, 1):
            branch = [
                *(*_convolve(inputs, outputs, 3, stride), nn.ReLU(inplace=True)),
                *_convolve(outputs, outputs, 3),
            ]
            same = stride == 1 and inputs == outputs
            shortcut = nn.Identity() if same else nn.Sequential(*_convolve(inputs, outputs, 1, stride))
            layers.append(_Residual(nn.Sequential(*branch), shortcut, nn.ReLU(inplace=True)))
            inputs = outputs
    return nn.Sequential(*layers, *_head(512))


# Expansion, channels, repetitions and first stride of each group of blocks.
INVERTED = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)


def _mobilenet_v2() -> nn.Module:
    layers = [*_convolve(3, 32, 3, 2), nn.ReLU6(inplace=True)]
    inputs = 32
    for expansion, outputs, repetitions, first_stride in INVERTED:
        for stride in (first_stride, *[1] * (repetitions - 1)):
            wide = inputs * expansion
            expanded = [] if expansion == 1 else [*_convolve(inputs, wide, 1), nn.ReLU6(inplace=True)]
            depthwise = [*_convolve(wide, wide, 3, stride, groups=wide), nn.ReLU6(inplace=True)]
            block = nn.Sequential(*expanded, *depthwise, *_convolve(wide, outputs, 1))
            same = stride == 1 and inputs == outputs
            layers.append(_Residual(block, nn.Identity(), nn.Identity()) if same else block)
            inputs = outputs
    # Without torchvision's dropout, so that all competitors compute the same numbers throughout.
    return nn.Sequential(*layers, *_convolve(inputs, 1280, 1), nn.ReLU6(inplace=True), *_head(1280))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"ResNet-18": _resnet18, "MobileNetV2": _mobilenet_v2}
