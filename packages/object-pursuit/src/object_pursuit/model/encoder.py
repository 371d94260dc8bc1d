"""Encoders that all objects share: a ResNet-18 with a multi-grid last stage, and a small one for 64-pixel images."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from object_pursuit.model.primary import MULTI_GRID


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut, both with the block's dilation."""

    def __init__(self, inside: int, outside: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride=stride, bias=False),
                nn.BatchNorm2d(outside),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out, h / stride, w / stride)` of `(B, in, h, w)`."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """ResNet-18 with stride 16 and three blocks of dilation 2, 4, 8 in its last stage ("resnetsub", spec section 2.3)."""

    high, low = 512, 64

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64), BasicBlock(64, 64))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, stride=2), BasicBlock(128, 128))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, stride=2), BasicBlock(256, 256))
        self.layer4 = nn.Sequential(
            *(BasicBlock(256 if rate == MULTI_GRID[0] else 512, 512, dilation=rate) for rate in MULTI_GRID)
        )
        _init(self)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return high `(B, 512, H/16, W/16)` and low `(B, 64, H/4, W/4)` of images `(B, 3, H, W)`, 0-1."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, stride=2, padding=1)
        low = self.layer1(x)
        return self.layer4(self.layer3(self.layer2(low))), low


class SmallEncoder(nn.Module):
    """Four convolutions for 64-pixel images: stride 2 with 24 channels (low level), stride 4 with 48 (the tiny preset)."""

    high, low = 48, 24

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.conv2 = nn.Conv2d(24, 24, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(24)
        self.conv3 = nn.Conv2d(24, 48, 3, stride=2, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(48)
        self.conv4 = nn.Conv2d(48, 48, 3, padding=2, dilation=2, bias=False)
        self.bn4 = nn.BatchNorm2d(48)
        _init(self)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return high `(B, 48, H/4, W/4)` and low `(B, 24, H/2, W/2)` of images `(B, 3, H, W)`, 0-1."""
        x = F.relu(self.bn1(self.conv1(images)))
        low = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(low)))
        return F.relu(self.bn4(self.conv4(x))), low


def _init(module: nn.Module) -> None:
    """Fill convolutions from N(0, sqrt(2 / (kernel area * outputs)))."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            height, width = layer.kernel_size
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / (height * width * layer.out_channels)))
