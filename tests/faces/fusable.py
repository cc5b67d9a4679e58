"""Small networks of the shapes that torchvision and timm have, for `convert(fuse=True)`."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

Tensor = torch.Tensor


class BasicBlock(nn.Module):
    """One activation called twice, and an addition in place."""

    expansion = 1

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, downsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample, self.stride = downsample, stride

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    expansion = 2

    def __init__(self, inputs: int, width: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 2 * width, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, block: Any = BasicBlock, depth: int = 2) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.inputs = 8
        self.layer1 = self._layer(block, 8, 1, depth)
        self.layer2 = self._layer(block, 16, 2, depth)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(self.inputs, 5)

    def _layer(self, block: Any, width: int, stride: int, depth: int) -> nn.Sequential:
        outputs = width * block.expansion
        skip = None
        if stride != 1 or self.inputs != outputs:
            skip = nn.Sequential(
                nn.Conv2d(self.inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        blocks = [block(self.inputs, width, stride, skip)]
        self.inputs = outputs
        return nn.Sequential(*blocks, *(block(outputs, width) for _ in range(depth - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class TimmBlock(nn.Module):
    """Identities between the batch norm, the addition and the activation, and options that are None."""

    expansion = 1

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, downsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.drop_block, self.act1, self.aa = nn.Identity(), nn.SiLU(inplace=True), nn.Identity()
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.se = None
        self.act2 = nn.SiLU(inplace=True)
        self.downsample, self.drop_path = downsample, None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.aa(self.act1(self.drop_block(self.bn1(self.conv1(x)))))
        x = self.bn2(self.conv2(x))
        if self.se is not None:
            x = self.se(x)
        if self.drop_path is not None:
            x = self.drop_path(x)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        x += shortcut
        return self.act2(x)


class ConvNormActivation(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, size: int, act: Any, groups: int = 1) -> None:
        conv = nn.Conv2d(inputs, outputs, size, 1, size // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), *([act(inplace=True)] if act else []))
        self.out_channels = outputs


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = functional.relu(self.fc1(self.avgpool(x)))
        return x * functional.hardsigmoid(self.fc2(scale))


class InvertedResidual(nn.Module):
    """MobileNetV2's, and with squeeze and excitation V3's."""

    def __init__(self, channels: int, act: Any, squeezes: bool) -> None:
        super().__init__()
        wide = 2 * channels
        self.use_res_connect = True
        self.conv = nn.Sequential(
            ConvNormActivation(channels, wide, 1, act),
            ConvNormActivation(wide, wide, 3, act, groups=wide),
            *([SqueezeExcitation(wide)] if squeezes else []),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.use_res_connect:
            return x + self.conv(x)
        return self.conv(x)


class MobileNet(nn.Module):
    def __init__(self, act: Any = nn.ReLU6, squeezes: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvNormActivation(3, 8, 3, act),
            *(InvertedResidual(8, act, squeezes) for _ in range(2)),
            ConvNormActivation(8, 12, 1, act),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(12, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class BatchNormAct2d(nn.BatchNorm2d):
    """timm's: a batch norm with an activation of its own."""

    __module__ = "timm.layers.norm_act"

    def __init__(self, channels: int, act: Any = nn.ReLU) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), act()

    def forward(self, x: Tensor) -> Tensor:
        given = self.weight, self.bias, self.training, self.momentum, self.eps
        x = functional.batch_norm(x, self.running_mean, self.running_var, *given)
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return self.act(self.drop(x))


class NormActNet(nn.Module):
    """As in timm's networks that have such layers; the second one leaves the activation to the block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 1, 1), BatchNormAct2d(8, nn.SiLU)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, 1, 1), BatchNormAct2d(8, nn.Identity)
        self.act, self.head = nn.ReLU(), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x))
        x = self.act(self.bn2(self.conv2(x)) + x)
        return self.head(x.mean((2, 3)))


class Functional(nn.Module):
    """Activations that are functions and methods, in place and not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(6))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.leaky_relu(self.norms[0](self.stem(x)), 0.2, inplace=True)
        x = functional.gelu(self.norms[1](x), approximate="tanh")
        x = torch.relu_(self.norms[2](x) * 1.0 + self.norms[3](x))
        x = torch.add(x, self.norms[4](x)).tanh_()
        x = functional.hardtanh(self.norms[5](x), 0.0, 6.0)
        return self.head(x.mean((2, 3)))


class SequenceBlock(nn.Module):
    """torchvision's RegNet: batch norms at the end of sequences, whose results are added by the block."""

    expansion = 1

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, downsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.proj = downsample or nn.Sequential()
        last = nn.Sequential(nn.Conv2d(outputs, outputs, 1), nn.BatchNorm2d(outputs))
        first = nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        self.f, self.activation = nn.Sequential(*first, last), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.proj(x) + self.f(x))


# Each network, and how many of its batch norms are joined: in all, and those with a residual.
NETWORKS: dict[str, tuple[Any, int, int]] = {
    "ResNet of basic blocks": (ResNet, 9, 4),
    "ResNet of bottlenecks": (lambda: ResNet(Bottleneck), 13, 4),
    "timm's ResNet": (lambda: ResNet(TimmBlock), 9, 4),
    "MobileNetV2": (MobileNet, 6, 0),
    "MobileNetV3": (lambda: MobileNet(nn.Hardswish, True), 6, 0),
    "timm's BatchNormAct2d": (NormActNet, 2, 1),
    "RegNet": (lambda: ResNet(SequenceBlock), 9, 4),
    "functions": (Functional, 5, 2),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = NETWORKS[name][0]()
    for each in model.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.normal_(each.weight, 1.0, 0.2)
            nn.init.normal_(each.bias, 0.0, 0.2)
    return model


def images(batch: int = 6, seed: int = 0) -> Any:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 + 1
