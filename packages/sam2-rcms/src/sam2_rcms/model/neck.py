"""The feature pyramid behind Hiera, and the image encoder of both."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from sam2_rcms.config import TrunkConfig
from sam2_rcms.model.hiera import Hiera

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
        out: Tensor = self.conv(x)
        return out


class FpnNeck(nn.Module):
    """Brings the stages to 256 channels.

    Args:
        channels: of the stages, deepest first.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Lateral(width) for width in channels)

    def forward(self, stages: list[Tensor]) -> list[Tensor]:
        """Return the levels of strides 4, 8 and 16; the deepest only lends itself to stride 16."""
        levels = [self.convs[3 - index](stages[index]) for index in range(4)]
        above = F.interpolate(levels[TOP_DOWN + 1].float(), scale_factor=2, mode="nearest")
        levels[TOP_DOWN] = levels[TOP_DOWN] + above.to(levels[TOP_DOWN].dtype)
        return levels[:3]


class ImageEncoder(nn.Module):
    """Hiera and its neck."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.trunk = Hiera(config)
        self.neck = FpnNeck(self.trunk.channels)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return features `(B, 256, h, w)` at strides 4, 8 and 16 of normalised images `(B, 3, S, S)`."""
        levels: list[Tensor] = self.neck(self.trunk(image))
        return levels


def check_image(image: Tensor) -> None:
    """Raise `ValueError` unless `(B, 3, H, W)` has sides that are multiples of 32."""
    if image.ndim != 4 or image.shape[1] != 3 or image.shape[2] % 32 or image.shape[3] % 32 or 0 in image.shape:
        raise ValueError(f"images of shape {tuple(image.shape)}; expected (B, 3, H, W) with sides that are multiples of 32")
