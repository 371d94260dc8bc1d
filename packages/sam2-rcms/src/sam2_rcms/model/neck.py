"""The feature pyramid behind Hiera, and the image encoder of both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2_rcms.config import TrunkConfig
from sam2_rcms.model.hiera import Hiera
from vos_core.ops.linear import linear

CHANNELS = 256
TOP_DOWN = 2
"""The level (by stride: 4, 8, 16, 32) that gets the next deeper one added; all others are lateral only."""


class Lateral(nn.Module):
    """A 1 x 1 convolution; a module of its own because checkpoints name it so."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, 256, h, w)`."""
        return self.conv(x) if torch.is_grad_enabled() else _mixed(x, self.conv.weight, self.conv.bias)

    def narrowed(self, x: Tensor, after: nn.Conv2d) -> Tensor:
        """Return `after(self(x))` of a second 1 x 1 convolution: one product with both where no gradient is wanted."""
        if torch.is_grad_enabled():
            return after(self(x))
        assert self.conv.bias is not None
        assert after.bias is not None
        inner, outer = self.conv.weight.flatten(1).float(), after.weight.flatten(1).float()
        bias = outer @ self.conv.bias.float() + after.bias.float()
        kind = after.weight.dtype
        return _mixed(x, (outer @ inner).to(kind), bias.to(kind)).contiguous()


def _mixed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return a 1 x 1 convolution of `(B, C, h, w)` as the linear layer it is; stages come with their channels side by side."""
    return linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


class FpnNeck(nn.Module):
    """Brings the stages to 256 channels.

    Args:
        channels: of the stages, deepest first.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Lateral(width) for width in channels)

    def forward(self, stages: list[Tensor], first: int = 0) -> list[Tensor]:
        """Return the levels of strides 4, 8 and 16, from `first` on; the deepest only lends itself to stride 16."""
        level, above = (self.lateral(index)(stages[index]) for index in (TOP_DOWN, TOP_DOWN + 1))
        level = level.contiguous() + F.interpolate(above.float(), scale_factor=2, mode="nearest").to(level.dtype)
        return [*(self.lateral(index)(stages[index]) for index in range(first, TOP_DOWN)), level]

    def lateral(self, index: int) -> Lateral:
        """Return the convolution of a stage, counted from the shallow end."""
        found = self.convs[len(self.convs) - 1 - index]
        assert isinstance(found, Lateral)
        return found


class ImageEncoder(nn.Module):
    """Hiera and its neck."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.trunk = Hiera(config)
        self.neck = FpnNeck(self.trunk.channels)

    def forward(self, image: Tensor, after: Sequence[nn.Conv2d] = ()) -> list[Tensor]:
        """Return features `(B, 256, h, w)` at strides 4, 8 and 16 of normalised images `(B, 3, S, S)`.

        Args:
            image: whose sides are multiples of 32.
            after: 1 x 1 convolutions that the first levels go through, from stride 4 on.
        """
        stages: list[Tensor] = self.trunk(image)
        levels = [self.neck.lateral(index).narrowed(stages[index], conv) for index, conv in enumerate(after)]
        return levels + self.neck(stages, first=len(levels))


def check_image(image: Tensor) -> None:
    """Raise `ValueError` unless `(B, 3, H, W)` has sides that are multiples of 32."""
    if image.ndim != 4 or image.shape[1] != 3 or image.shape[2] % 32 or image.shape[3] % 32 or 0 in image.shape:
        raise ValueError(f"images of shape {tuple(image.shape)}; expected (B, 3, H, W) with sides that are multiples of 32")
