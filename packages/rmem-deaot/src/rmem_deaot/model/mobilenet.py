"""MobileNetV2 at output stride 16, with the attribute names of the official checkpoints.

Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks". The last stride is a dilation;
norms are frozen.
"""

from __future__ import annotations

from torch import Tensor, nn

from rmem_deaot.model.frozen_norm import FrozenBatchNorm2d

# Expansion, output channels, blocks, stride of the first block.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 1), (6, 320, 1, 1))
_DILATED_FROM = 15
"""First block with a dilation of 2: block 14, where the stride was taken out, still has 1 (spec section 2.2)."""


def _conv_norm_relu(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    padding = dilation * (kernel - 1) // 2
    conv = nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=False
    )
    return nn.Sequential(conv, FrozenBatchNorm2d(out_channels), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """Expand, filter per channel, project; a shortcut where the shape stays.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the filter.
        expansion: factor of the inner width.
        dilation: of the filter.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, expansion: int, dilation: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        expand = [] if expansion == 1 else [_conv_norm_relu(in_channels, inner, 1)]
        self.conv = nn.Sequential(
            *expand,
            _conv_norm_relu(inner, inner, 3, stride=stride, dilation=dilation, groups=inner),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            FrozenBatchNorm2d(out_channels),
        )
        self.keeps_shape = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out, h / stride, w / stride)` of `(B, in, h, w)`."""
        y: Tensor = self.conv(x)
        return x + y if self.keeps_shape else y


class MobileNetV2(nn.Module):
    """The trunk: 19 blocks in `features`."""

    channels = (24, 32, 96, 1280)

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = [_conv_norm_relu(3, 32, 3, stride=2)]
        width = 32
        for expansion, out_channels, count, stride in _STAGES:
            for place in range(count):
                dilation = 2 if len(blocks) >= _DILATED_FROM else 1
                blocks.append(
                    InvertedResidual(
                        width, out_channels, stride=stride if place == 0 else 1, expansion=expansion, dilation=dilation
                    )
                )
                width = out_channels
        blocks.append(_conv_norm_relu(width, 1280, 1))
        self.features = nn.Sequential(*blocks)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return maps at strides 4, 8, 16 and the one to project, `(B, 1280, h, w)`, of `(B, 3, H, W)`."""
        x4 = self.features[0:4](image)
        x8 = self.features[4:7](x4)
        x16 = self.features[7:14](x8)
        return x4, x8, x16, self.features[14:19](x16)

    def frozen(self) -> list[nn.Module]:
        """Return the modules that training leaves alone."""
        return list(self.features[0:4])
