"""Key encoder (image only) and value encoder (image and mask) of STCN.

Cheng, Tai and Tang, "Rethinking space-time networks with improved memory coverage for efficient video object segmentation".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stcn_ttt.model.blocks import ResBlock, SharedPart, SharingResBlock
from stcn_ttt.model.cbam import CBAM
from stcn_ttt.model.resnet import basic_stage, bottleneck_stage, init_resnet_conv, stem


class KeyEncoder(nn.Module):
    """ResNet-50 to stride 16; the first stage is called `res2` in the checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.res2 = bottleneck_stage(64, 64, blocks=3, stride=1)
        self.layer2 = bottleneck_stage(256, 128, blocks=4, stride=2)
        self.layer3 = bottleneck_stage(512, 256, blocks=6, stride=2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return f16 `(B, 1024, H/16, W/16)`, f8 `(B, 512, H/8, W/8)` and f4 `(B, 256, H/4, W/4)` of a normalised image."""
        f4 = self.res2(self.maxpool(stem(image, self.conv1, self.bn1)))
        f8 = self.layer2(f4)
        return self.layer3(f8), f8, f4


class FeatureFuser(nn.Module):
    """Mixes an object's ResNet-18 feature with the frame's key feature into its value."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = SharingResBlock(256, 1024, 512)
        self.attention = CBAM(512)
        self.block2 = ResBlock(512, 512)

    def forward(self, own: Tensor, part: SharedPart) -> Tensor:
        """Return `(B * N, 512, h, w)` of the objects' features `(B * N, 256, h, w)` and the frame's part of `block1`."""
        x = self.block1(own, part)
        return self.block2(x + self.attention(x))


class ValueEncoder(nn.Module):
    """ResNet-18, every convolution with a bias, over image and masks; then the fuser.

    Args:
        mask_channels: 2 = this object and the sum of the others; 1 = this object only (stage-0 checkpoints).
    """

    def __init__(self, *, mask_channels: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3 + mask_channels, 64, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = basic_stage(64, 64, stride=1)
        self.layer2 = basic_stage(64, 128, stride=2)
        self.layer3 = basic_stage(128, 256, stride=2)
        self.fuser = FeatureFuser()
        init_resnet_conv(self.conv1)
        # The mask channels start orthogonal; the RGB ones are meant to be overwritten by an ImageNet ResNet-18.
        with torch.no_grad():
            nn.init.orthogonal_(self.conv1.weight[:, 3:])

    def trunk(self, image_and_masks: Tensor) -> Tensor:
        """Return the ResNet-18 feature `(B * N, 256, H/16, W/16)`, before the fuser."""
        x = self.maxpool(stem(image_and_masks, self.conv1, self.bn1))
        return self.layer3(self.layer2(self.layer1(x)))

    def forward(self, image: Tensor, f16: Tensor, masks: Tensor, *, part: SharedPart | None = None) -> Tensor:
        """Return the objects' values `(B * N, 512, H/16, W/16)`.

        Args:
            image: normalised `(B, 3, H, W)`.
            f16: the key encoder's `(B, 1024, H/16, W/16)` of the same frames.
            masks: `(B * N, mask_channels, H, W)`, 0-1, objects of a frame next to each other.
            part: `fuser.block1.share(f16)`, if it is at hand from before.
        """
        objects = masks.shape[0] // image.shape[0]
        repeated = image.repeat_interleave(objects, 0) if objects > 1 else image
        return self.fuser(self.trunk(torch.cat((repeated, masks), 1)), self.fuser.block1.share(f16) if part is None else part)


class KeyProjection(nn.Module):
    """3x3 convolution from the stride-16 feature to the key; the doubled name is the checkpoints'."""

    def __init__(self, in_channels: int, key_channels: int) -> None:
        super().__init__()
        self.key_proj = nn.Conv2d(in_channels, key_channels, 3, padding=1)
        nn.init.orthogonal_(self.key_proj.weight)
        assert self.key_proj.bias is not None
        nn.init.zeros_(self.key_proj.bias)

    def forward(self, f16: Tensor) -> Tensor:
        """Return the key `(B, 64, h, w)`."""
        return self.key_proj(f16)
