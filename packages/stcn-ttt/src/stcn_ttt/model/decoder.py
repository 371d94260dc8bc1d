"""From a readout to an object's logit; what the objects of a frame have in common is computed once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stcn_ttt.model.blocks import ResBlock, SharedPart, SharingResBlock, WideConv, add_shared


class FrameSkips(NamedTuple):
    """The part of the decoder that depends on the frame and on no object."""

    compress: SharedPart
    skip8: Tensor
    skip4: Tensor


class UpsampleBlock(nn.Module):
    """Adds a projected skip feature to the doubled coarser map, then one residual block.

    Args:
        skip_channels: channels of the skip feature.
        up_channels: channels of the coarser map.
        out_channels: channels of the output.
    """

    def __init__(self, skip_channels: int, up_channels: int, out_channels: int) -> None:
        super().__init__()
        self.skip_conv = WideConv(skip_channels, up_channels)
        self.out_conv = ResBlock(up_channels, out_channels)

    def forward(self, skip: Tensor, up: Tensor) -> Tensor:
        """Return `(B * N, out, 2h, 2w)` of the *projected* skip `(B, up, 2h, 2w)` and the coarser `(B * N, up, h, w)`."""
        up = F.interpolate(up, scale_factor=2, mode="bilinear", align_corners=False)
        return self.out_conv(add_shared(up, skip))


class Decoder(nn.Module):
    """Stride 16 to stride 4 and a float32 logit, then four times bilinear."""

    def __init__(self) -> None:
        super().__init__()
        self.compress = SharingResBlock(512, 512, 512)
        self.up_16_8 = UpsampleBlock(512, 512, 256)
        self.up_8_4 = UpsampleBlock(256, 256, 256)
        self.pred = nn.Conv2d(256, 1, 3, padding=1)

    def skips(self, thin: Tensor, f8: Tensor, f4: Tensor) -> FrameSkips:
        """Return what all objects of a frame share: thin `(B, 512, h, w)`, f8 and f4 through their convolutions."""
        return FrameSkips(self.compress.share(thin), self.up_16_8.skip_conv(f8), self.up_8_4.skip_conv(f4))

    def forward(self, readout: Tensor, skips: FrameSkips) -> Tensor:
        """Return logits `(B * N, 1, H, W)` of the readouts (or values) `(B * N, 512, h, w)`."""
        x = self.compress(readout, skips.compress)
        x = self.up_16_8(skips.skip8, x)
        x = self.up_8_4(skips.skip4, x)
        # float32 from here on: in half precision the enlarged logits would come in visible steps.
        coarse = self.pred(torch.relu_(x)).float()
        return F.interpolate(coarse, scale_factor=4, mode="bilinear", align_corners=False)
