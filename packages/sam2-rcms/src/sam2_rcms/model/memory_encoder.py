"""Spatial memories out of image features and masks (spec section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sam2_rcms.model.layers import LayerNorm2d
from vos_core.ops.linear import linear

CHANNELS, MEMORY = 256, 64


class MaskDownSampler(nn.Module):
    """Masks at image size brought to stride 16."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        width = 1
        for _ in range(4):
            parts += [nn.Conv2d(width, 4 * width, 3, stride=2, padding=1), LayerNorm2d(4 * width), nn.GELU()]
            width *= 4
        self.encoder = nn.Sequential(*parts, nn.Conv2d(width, CHANNELS, 1))

    def forward(self, mask: Tensor) -> Tensor:
        """Return `(B, 256, h, w)` of `(B, 1, 16h, 16w)`."""
        out: Tensor = self.encoder(mask)
        return out


class FuserBlock(nn.Module):
    """ConvNeXt block."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(1e-6 * torch.ones(CHANNELS))
        self.dwconv = nn.Conv2d(CHANNELS, CHANNELS, 7, padding=3, groups=CHANNELS)
        self.norm = LayerNorm2d(CHANNELS)
        self.pwconv1 = nn.Linear(CHANNELS, 4 * CHANNELS)
        self.pwconv2 = nn.Linear(4 * CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, 256, h, w)`."""
        inner = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        inner = linear(inner, self.pwconv1.weight, self.pwconv1.bias, activation="gelu")
        inner = self.gamma * linear(inner, self.pwconv2.weight, self.pwconv2.bias)
        return x + inner.permute(0, 3, 1, 2)


class Fuser(nn.Module):
    """Two blocks in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(FuserBlock() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, 256, h, w)`."""
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """Fuses image features with a mask into a memory of 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_downsampler = MaskDownSampler()
        self.pix_feat_proj = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.fuser = Fuser()
        self.out_proj = nn.Conv2d(CHANNELS, MEMORY, 1)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return `(B, 64, h, w)`.

        Args:
            features: `(B or 1, 256, h, w)` of the image, without memory.
            mask: `(B, 1, 16h, 16w)`, already scaled and shifted.
        """
        out: Tensor = self.out_proj(self.fuser(self.pix_feat_proj(features) + self.mask_downsampler(mask)))
        return out
