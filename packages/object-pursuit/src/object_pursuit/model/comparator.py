"""Networks without a hypernetwork that the method is compared with: DeepLabv3+, one shared by all objects, and a U-Net."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from object_pursuit.model.encoder import ResNet18


class AsppBranch(nn.Module):
    """A dilated convolution, norm and ReLU."""

    def __init__(self, inside: int, outside: int, *, rate: int) -> None:
        super().__init__()
        size = 3 if rate else 1
        self.atrous_conv = nn.Conv2d(inside, outside, size, padding=rate, dilation=max(1, rate), bias=False)
        self.bn = nn.BatchNorm2d(outside)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out, h, w)` of `(B, in, h, w)`."""
        return F.relu(self.bn(self.atrous_conv(x)))


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling at stride 16: rates 1, 6, 12, 18 and the whole image."""

    def __init__(self, inside: int = 512, outside: int = 256) -> None:
        super().__init__()
        self.aspp1 = AsppBranch(inside, outside, rate=0)
        self.aspp2 = AsppBranch(inside, outside, rate=6)
        self.aspp3 = AsppBranch(inside, outside, rate=12)
        self.aspp4 = AsppBranch(inside, outside, rate=18)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d((1, 1)), nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()
        )
        self.conv1 = nn.Conv2d(5 * outside, outside, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out, h, w)` of `(B, in, h, w)`."""
        branches = [self.aspp1(x), self.aspp2(x), self.aspp3(x), self.aspp4(x)]
        branches.append(self.global_avg_pool(x).expand_as(branches[0]))
        return self.dropout(F.relu(self.bn1(self.conv1(torch.cat(branches, 1)))))


class Decoder(nn.Module):
    """Joins ASPP and low-level features and returns logits."""

    def __init__(self, low: int = 64, aspp: int = 256, classes: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(low, 48, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(48)
        self.last_conv = nn.Sequential(
            nn.Conv2d(aspp + 48, 256, 3, padding=1, bias=False),
            nn.BatchNorm2d(256),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(256, 256, 3, padding=1, bias=False),
            nn.BatchNorm2d(256),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(256, classes, 1),
        )

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        """Return logits `(B, classes, h, w)` at the size of `low`."""
        reduced = F.relu(self.bn1(self.conv1(low)))
        x = F.interpolate(x, size=low.shape[-2:], mode="bilinear", align_corners=True)
        return self.last_conv(torch.cat((x, reduced), 1))


class DeepLab(nn.Module):
    """DeepLabv3+ with ordinary norms; its modules are those that the hypernetwork generates elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet18()
        self.aspp = Aspp()
        self.decoder = Decoder()
        for part in (self.aspp, self.decoder):
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(B, 1, H, W)` of images `(B, 3, H, W)`, 0-1."""
        high, low = self.backbone(images)
        logits = self.decoder(self.aspp(high), low)
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=True)


class MultiDeepLab(nn.Module):
    """One DeepLab for all objects of joint pretraining, which cannot know which one is meant."""

    def __init__(self) -> None:
        super().__init__()
        self.main_net = DeepLab()

    def forward(self, images: Tensor, index: int | None = None) -> Tensor:
        """Return logits `(B, 1, H, W)`; the object's index changes nothing."""
        return self.main_net(images)


class DoubleConv(nn.Module):
    """Twice a 3 x 3 convolution, norm and ReLU."""

    def __init__(self, inside: int, outside: int, middle: int | None = None) -> None:
        super().__init__()
        middle = middle or outside
        self.double_conv = nn.Sequential(
            nn.Conv2d(inside, middle, 3, padding=1),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.Conv2d(middle, outside, 3, padding=1),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out, h, w)`."""
        return self.double_conv(x)


class Down(nn.Module):
    """Halve, then convolve."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(inside, outside))

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out, h / 2, w / 2)`."""
        return self.maxpool_conv(x)


class Up(nn.Module):
    """Double, pad to the skip's size, join, convolve."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv = DoubleConv(inside, outside, inside // 2)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return `(B, out, H, W)` at the size of `skip`."""
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        rows, columns = skip.shape[-2] - x.shape[-2], skip.shape[-1] - x.shape[-1]
        x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return self.conv(torch.cat((skip, x), 1))


class Out(nn.Module):
    """The last 1 x 1 convolution."""

    def __init__(self, inside: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.conv(x)


class UNet(nn.Module):
    """U-Net with bilinear enlargement, 64 to 512 channels."""

    widths: ClassVar[tuple[int, ...]] = (64, 128, 256, 512)

    def __init__(self) -> None:
        super().__init__()
        self.inc = DoubleConv(3, 64)
        self.down1 = Down(64, 128)
        self.down2 = Down(128, 256)
        self.down3 = Down(256, 512)
        self.down4 = Down(512, 512)
        self.up1 = Up(1024, 256)
        self.up2 = Up(512, 128)
        self.up3 = Up(256, 64)
        self.up4 = Up(128, 64)
        self.outc = Out(64, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(B, 1, H, W)` of images `(B, 3, H, W)`, 0-1."""
        x1 = self.inc(images)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x = self.up1(self.down4(x4), x4)
        return self.outc(self.up4(self.up3(self.up2(x, x3), x2), x1))
