"""ResNet-50 and ResNet-18 up to stride 16, with the attribute names of the official checkpoints.

He et al., "Deep residual learning for image recognition". Layer 4 and the classifier are absent.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vos_core.ops.conv3x3 import conv3x3


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut; the stride sits on the 3x3 ("v1.5").

    Args:
        in_channels: channels of the input.
        width: channels inside; the output has four times as many.
        stride: of the 3x3 convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, width: int, *, stride: int = 1) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out, h / stride, w / stride)` of `(B, in, h, w)`."""
        y = torch.relu_(convolve_and_norm(x, self.conv1, self.bn1))
        y = torch.relu_(convolve_and_norm(y, self.conv2, self.bn2))
        return _add_relu(convolve_and_norm(y, self.conv3, self.bn3), _shortcut_of(x, self.downsample))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with bias around a shortcut.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the first convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = _shortcut(in_channels, out_channels, stride=stride, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out, h / stride, w / stride)` of `(B, in, h, w)`."""
        y = torch.relu_(convolve_and_norm(x, self.conv1, self.bn1))
        return _add_relu(convolve_and_norm(y, self.conv2, self.bn2), _shortcut_of(x, self.downsample))


def bottleneck_stage(in_channels: int, width: int, *, blocks: int, stride: int) -> nn.Sequential:
    """Return one stage of a ResNet-50: `blocks` bottlenecks, the first with `stride`."""
    first = Bottleneck(in_channels, width, stride=stride)
    if first.downsample is None:
        raise ValueError("the first block of a stage changes its width")
    return nn.Sequential(first, *(Bottleneck(4 * width, width) for _ in range(blocks - 1)))


def basic_stage(in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
    """Return one stage of a ResNet-18, initialised its way: two basic blocks, the first with `stride`."""
    stage = nn.Sequential(BasicBlock(in_channels, out_channels, stride=stride), BasicBlock(out_channels, out_channels))
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            init_resnet_conv(module)
    return stage


def init_resnet_conv(conv: nn.Conv2d) -> None:
    """Fill `conv` from N(0, sqrt(2 / (kernel area * outputs))) and zero its bias."""
    kernel_height, kernel_width = conv.kernel_size
    nn.init.normal_(conv.weight, 0.0, math.sqrt(2.0 / (kernel_height * kernel_width * conv.out_channels)))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def _shortcut(in_channels: int, out_channels: int, *, stride: int, bias: bool) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=bias), nn.BatchNorm2d(out_channels))


def convolve_and_norm(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """Return `norm(conv(x))` for a norm that uses its stored statistics, as one convolution with scaled weights.

    The same function and the same gradients up to rounding, without the norm's passes over memory. Where only the norm is
    trained the two stay apart: the gradient of scaled weights would cost as much as that of the convolution.
    """
    if norm.weight.requires_grad and not conv.weight.requires_grad:
        return cast(Tensor, norm(conv(x)))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * scale if conv.bias is None else norm.bias + (conv.bias - norm.running_mean) * scale
    weight = conv.weight * scale[:, None, None, None]
    if conv.kernel_size == (3, 3) and conv.stride == (1, 1):
        return conv3x3(x, weight, bias)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding)


def stem(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """Return `relu(norm(conv(x)))`; a fused copy of a network has all three in `conv` and nothing in `norm`."""
    return torch.relu_(convolve_and_norm(x, conv, norm)) if isinstance(norm, nn.BatchNorm2d) else cast(Tensor, conv(x))


def _shortcut_of(x: Tensor, shortcut: nn.Sequential | None) -> Tensor:
    return x if shortcut is None else convolve_and_norm(x, cast(nn.Conv2d, shortcut[0]), cast(nn.BatchNorm2d, shortcut[1]))


def _add_relu(y: Tensor, shortcut: Tensor) -> Tensor:
    # In place: `y` is a fresh norm output that no other operation keeps (a norm's backward needs its input, not its output).
    return torch.relu_(y.add_(shortcut))
