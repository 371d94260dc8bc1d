"""From propagated tokens to logits at a quarter of the input's size: a feature pyramid that fuses the encoder's maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNorm(nn.Module):
    """A convolution with bias, then group norm of 8 groups.

    Args:
        in_channels: of the input.
        out_channels: of the result.
        kernel: side; padded so that the size stays.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
        self.gn = nn.GroupNorm(8, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out_channels, H, W)`."""
        out: Tensor = self.gn(self.conv(x))
        return out


class FPNDecoder(nn.Module):
    """The decoder.

    Args:
        in_channels: of the propagated maps.
        channels: inside, at stride 16; half of it at strides 8 and 4.
        classes: background and identities.
        shortcuts: channels of the encoder's maps at strides 4, 8 and 16.
        align_corners: of the up-sampling.
    """

    def __init__(
        self, in_channels: int, channels: int, *, classes: int, shortcuts: tuple[int, int, int], align_corners: bool
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        half = channels // 2
        self.conv_in = ConvNorm(in_channels, channels, 1)
        self.conv_16x = ConvNorm(channels, channels, 3)
        self.conv_8x = ConvNorm(channels, half, 3)
        self.conv_4x = ConvNorm(half, half, 3)
        self.adapter_16x = nn.Conv2d(shortcuts[2], channels, 1)
        self.adapter_8x = nn.Conv2d(shortcuts[1], channels, 1)
        self.adapter_4x = nn.Conv2d(shortcuts[0], half, 1)
        self.conv_out = nn.Conv2d(half, classes, 1)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor, skips: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Return logits `(B, classes, H / 4, W / 4)`.

        Args:
            x: propagated maps `(B, in_channels, h, w)`.
            skips: `skips` of the frame; one image serves any number of groups.
        """
        at_16, at_8, at_4 = skips
        x = torch.relu_(self.conv_in(x))
        x = torch.relu_(self.conv_16x(x + at_16))
        x = torch.relu_(self.conv_8x(self._up(x, at_8).add_(at_8)))
        x = torch.relu_(self.conv_4x(self._up(x, at_4).add_(at_4)))
        out: Tensor = self.conv_out(x)
        return out

    def skips(self, x16: Tensor, x8: Tensor, x4: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the encoder's share of a frame."""
        return self.adapter_16x(x16), self.adapter_8x(x8), self.adapter_4x(x4)

    def _up(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=self.align_corners)
