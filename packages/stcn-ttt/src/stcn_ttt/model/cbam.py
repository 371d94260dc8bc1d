"""Channel and spatial attention of the value fuser (Woo et al., "CBAM: convolutional block attention module")."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelGate(nn.Module):
    """Scales channels by a shared MLP over their global mean and maximum.

    Args:
        channels: channels of the input.
        reduction: hidden units are `channels / reduction`.
    """

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        # Positions 1 and 3 of the checkpoint's `mlp` are the two layers.
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, channels // reduction), nn.ReLU(), nn.Linear(channels // reduction, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` `(B, C, h, w)` with scaled channels."""
        logits = self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))
        return x * torch.sigmoid(logits)[:, :, None, None]


class SpatialConv(nn.Module):
    """One 7x7 convolution; a module of its own because the checkpoint's key has one level more."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, 1, h, w)` of `(B, 2, h, w)`."""
        return self.conv(x)


class SpatialGate(nn.Module):
    """Scales cells by a convolution over their channel-wise maximum (first) and mean (second)."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = SpatialConv()

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` `(B, C, h, w)` with scaled cells."""
        pooled = torch.cat((x.amax(1, keepdim=True), x.mean(1, keepdim=True)), 1)
        return x * torch.sigmoid(self.spatial(pooled))


class CBAM(nn.Module):
    """Channel gate, then spatial gate.

    Args:
        channels: channels of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ChannelGate = ChannelGate(channels)
        self.SpatialGate = SpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` `(B, C, h, w)` through both gates."""
        return self.SpatialGate(self.ChannelGate(x))
