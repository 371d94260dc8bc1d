"""ResNet-50 and ResNet-101 up to stride 16, with the attribute names of the official checkpoints.

He et al., "Deep residual learning for image recognition". Layer 4 and the classifier are absent; norms are frozen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rmem_deaot.model.frozen_norm import FrozenBatchNorm2d

BLOCKS = {"resnet50": (3, 4, 6), "resnet101": (3, 4, 23)}


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut; the stride sits on the 3x3 ("v1.5").

    Args:
        in_channels: channels of the input.
        width: channels inside; the output has four times as many.
        stride: of the 3x3 convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, width: int, *, stride: int = 1) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = FrozenBatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = FrozenBatchNorm2d(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, FrozenBatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out, h / stride, w / stride)` of `(B, in, h, w)`."""
        y = torch.relu_(self.bn1(self.conv1(x)))
        y = torch.relu_(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu_(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """The trunk.

    Args:
        blocks: bottlenecks in each of the three stages.
    """

    channels = (256, 512, 1024, 1024)

    def __init__(self, blocks: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = FrozenBatchNorm2d(64)
        self.layer1 = _stage(64, 64, blocks[0], stride=1)
        self.layer2 = _stage(256, 128, blocks[1], stride=2)
        self.layer3 = _stage(512, 256, blocks[2], stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return maps at strides 4, 8, 16 and the one to project (the last again) of `(B, 3, H, W)`."""
        x = F.max_pool2d(torch.relu_(self.bn1(self.conv1(image))), 3, stride=2, padding=1)
        x4 = self.layer1(x)
        x8 = self.layer2(x4)
        x16 = self.layer3(x8)
        return x4, x8, x16, x16

    def frozen(self) -> list[nn.Module]:
        """Return the modules that training leaves alone: stem and first stage."""
        return [self.conv1, self.layer1]


def _stage(in_channels: int, width: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, width, stride=stride)
    return nn.Sequential(first, *(Bottleneck(4 * width, width) for _ in range(blocks - 1)))
