"""A copy of a network for inference: norms folded into convolutions, rectifiers and residual sums done inside them.

The same functions with fewer passes over memory (see `FusedConv`). Folding moves float32 results by rounding only (bounded by a
test).
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stcn_ttt.model.blocks import ResBlock, SharedPart, SharingResBlock, WideConv, add_shared
from stcn_ttt.model.network import STCN
from stcn_ttt.model.resnet import BasicBlock, Bottleneck
from vos_core.ops.fused_conv import FusedConv


class FusedBottleneck(nn.Module):
    """`Bottleneck` with folded norms; overwrites its input where the shortcut is the identity."""

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.conv1 = FusedConv(_fold(block.conv1, block.bn1), relu=True)
        self.conv2 = FusedConv(_fold(block.conv2, block.bn2), relu=True)
        self.conv3 = FusedConv(_fold(block.conv3, block.bn3), relu=True)
        self.downsample = _fused_shortcut(block.downsample)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the original block does; may overwrite `x`."""
        y = self.conv2(self.conv1(x))
        return self.conv3.add_to(x if self.downsample is None else self.downsample(x), y)


class FusedBasicBlock(nn.Module):
    """`BasicBlock` with folded norms; overwrites its input where the shortcut is the identity."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.conv1 = FusedConv(_fold(block.conv1, block.bn1), relu=True)
        self.conv2 = FusedConv(_fold(block.conv2, block.bn2), relu=True)
        self.downsample = _fused_shortcut(block.downsample)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the original block does; may overwrite `x`."""
        y = self.conv1(x)
        return self.conv2.add_to(x if self.downsample is None else self.downsample(x), y)


class FusedResBlock(nn.Module):
    """`ResBlock`; overwrites its input where the shortcut is the identity."""

    def __init__(self, block: ResBlock) -> None:
        super().__init__()
        self.conv1 = FusedConv(block.conv1, relu=True)
        self.conv2 = FusedConv(block.conv2)
        self.downsample = None if block.downsample is None else FusedConv(block.downsample)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the original block does; may overwrite `x`."""
        y = self.conv1(torch.relu(x))
        return self.conv2.add_to(x if self.downsample is None else self.downsample(x), y)


class FusedSharingResBlock(nn.Module):
    """`SharingResBlock` with its weights split once."""

    def __init__(self, block: SharingResBlock) -> None:
        super().__init__()
        own, shared = slice(0, block.own_channels), slice(block.own_channels, None)
        self.own_conv1 = FusedConv(block.conv1, bias=False, channels=own, relu=True)
        self.own_downsample = FusedConv(block.downsample, bias=False, channels=own)
        self.shared_conv1 = FusedConv(block.conv1, channels=shared)
        self.shared_downsample = FusedConv(block.downsample, channels=shared)
        self.conv2 = FusedConv(block.conv2)

    def share(self, shared: Tensor) -> SharedPart:
        """Return the frame's part for `forward`."""
        return SharedPart(self.shared_conv1(torch.relu(shared)), self.shared_downsample(shared))

    def forward(self, own: Tensor, part: SharedPart) -> Tensor:
        """Return what the original block does."""
        inner = self.own_conv1.add_to(_spread(part.conv1, own.shape[0]), torch.relu(own))
        return self.conv2.add_to(add_shared(self.own_downsample(own), part.downsample), inner)


def fuse(network: STCN, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> STCN:
    """Return a copy of `network` that computes the same without gradients, in `dtype` on `device`; `network` stays as it is.

    The copy's state dict no longer has the official keys.
    """
    fused = copy.deepcopy(network).requires_grad_(False)
    for encoder in (fused.key_encoder, fused.value_encoder):
        encoder.conv1 = FusedConv(_fold(encoder.conv1, encoder.bn1), relu=True)  # type: ignore[assignment]
        encoder.bn1 = nn.Identity()  # type: ignore[assignment]
    _replace(fused)
    fused = fused.to(device=device, dtype=dtype)
    return fused.to(memory_format=torch.channels_last).eval()


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        kind = _FUSED.get(type(child))
        if kind is not None:
            setattr(module, name, kind(child))
        elif not isinstance(child, FusedConv):
            _replace(child)


# The 7x7 convolution of the spatial gate has two input channels and stays as it is in effect; one rule for all is simpler.
_FUSED = {
    Bottleneck: FusedBottleneck,
    BasicBlock: FusedBasicBlock,
    ResBlock: FusedResBlock,
    SharingResBlock: FusedSharingResBlock,
    nn.Conv2d: FusedConv,
    WideConv: FusedConv,
}


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    return fuse_conv_bn_eval(conv, norm)


def _fused_shortcut(shortcut: nn.Sequential | None) -> FusedConv | None:
    return None if shortcut is None else FusedConv(_fold(cast(nn.Conv2d, shortcut[0]), cast(nn.BatchNorm2d, shortcut[1])))


def _spread(part: Tensor, count: int) -> Tensor:
    """Return a fresh `(count, C, h, w)` tensor that repeats each frame's part for its objects."""
    return part.repeat_interleave(count // part.shape[0], 0) if count != part.shape[0] else part.clone()
