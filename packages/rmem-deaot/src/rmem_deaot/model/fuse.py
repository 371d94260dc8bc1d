"""A copy of a network for inference: norms folded into convolutions, rectifiers and residual sums done inside them.

The same functions with fewer passes over memory (see `FusedConv`). Folding moves float32 results by rounding only (bounded by a
test).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from rmem_deaot.model.frozen_norm import fold_norms
from rmem_deaot.model.network import AOTNetwork
from rmem_deaot.model.resnet import Bottleneck, ResNet
from vos_core.ops.fused_conv import FusedConv


class FusedBottleneck(nn.Module):
    """`Bottleneck` whose norms are folded already; overwrites its input where the shortcut is the identity."""

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.conv1 = FusedConv(block.conv1, relu=True)
        self.conv2 = FusedConv(block.conv2, relu=True)
        self.conv3 = FusedConv(block.conv3, relu=True)
        shortcut = None if block.downsample is None else block.downsample[0]
        self.downsample = FusedConv(shortcut) if isinstance(shortcut, nn.Conv2d) else None

    def forward(self, x: Tensor) -> Tensor:
        """Return what the original block does; may overwrite `x`."""
        y = self.conv2(self.conv1(x))
        return self.conv3.add_to(x if self.downsample is None else self.downsample(x), y)


def fuse(network: AOTNetwork, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> AOTNetwork:
    """Return a copy of `network` that computes the same without gradients, in `dtype` on `device`; `network` stays as it is.

    The copy's state dict no longer has the official keys.
    """
    fused = copy.deepcopy(network).requires_grad_(False)
    fold_norms(fused.encoder)
    if isinstance(fused.encoder, ResNet):
        fused.encoder.conv1 = FusedConv(fused.encoder.conv1, relu=True)  # type: ignore[assignment]
    _replace(fused)
    return fused.to(device=device, dtype=dtype).to(memory_format=torch.channels_last).eval()


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, Bottleneck):
            setattr(module, name, FusedBottleneck(child))
        elif isinstance(child, nn.Conv2d) and child.groups == 1 and child.dilation == (1, 1):
            setattr(module, name, FusedConv(child))
        elif not isinstance(child, FusedConv):
            _replace(child)
