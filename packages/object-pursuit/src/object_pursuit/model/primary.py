"""The generated network: ASPP and decoder (and a ResNet-18, if it is generated too) as functions of weights (spec section 2.2).

Weights come from `Hypernet`, for one code or for M codes at a time. With M codes the maps of all codes lie side by side in the
channels and convolutions are grouped, so norms see each code alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]
_EPS = 1e-5
MULTI_GRID = (2, 4, 8)
"""Dilations of the three blocks of the encoder's last stage."""
_RATES = ((1, 0), (2, 6), (3, 12), (4, 18))  # ASPP branch, dilation = padding; the first has a 1 x 1 kernel


@dataclass(frozen=True, slots=True)
class Stages:
    """What the network computes on the way.

    Args:
        low: low-level features `(B, c, H/4, W/4)`.
        high: features `(B, C, H/16, W/16)`.
        aspp: `(B, M * c, H/16, W/16)`, after dropout.
        dec: logits before the last enlargement `(B, M, H/4, W/4)`.
        logits: `(B, M, H, W)`.
    """

    low: Tensor
    high: Tensor
    aspp: Tensor
    dec: Tensor
    logits: Tensor


def run_stages(
    images: Tensor, weights: Weights, encoder: Callable[[Tensor], tuple[Tensor, Tensor]] | None, *, dropout: bool
) -> Stages:
    """Return all stages for images `(B, 3, H, W)`, 0-1.

    Args:
        images: without normalisation.
        weights: of one code or of M.
        encoder: returns (high, low); None = it is generated, too.
        dropout: drop in ASPP and decoder.
    """
    high, low = encode(images, weights) if encoder is None else encoder(images)
    shared = encoder is not None
    aspp = run_aspp(high, weights, dropout=dropout, shared=shared)
    dec = run_decoder(aspp, low, weights, dropout=dropout, shared=shared)
    logits = F.interpolate(dec, size=images.shape[-2:], mode="bilinear", align_corners=True)
    return Stages(low, high, aspp, dec, logits)


def count_codes(weights: Weights) -> int:
    """Return M, or 1 where weights are of a single code."""
    weight = weights["decoder.last_conv.8.weight"]
    return weight.shape[0] if weight.ndim == 5 else 1


def conv(x: Tensor, weights: Weights, layer: str, *, shared: bool, bias: Tensor | None = None, **geometry: Any) -> Tensor:
    """Return the convolution of `x` with a generated kernel; `shared` says that all codes see the same `x`."""
    weight = weights[f"{layer}.weight"]
    if weight.ndim == 4:
        return F.conv2d(x, weight, bias, **geometry)
    return F.conv2d(x, weight.flatten(0, 1), bias, groups=1 if shared else weight.shape[0], **geometry)


def conv_norm(x: Tensor, weights: Weights, layer: str, *, shared: bool = False, **geometry: Any) -> Tensor:
    """Return convolution and batch norm with generated gain and offset, always with the statistics of the batch."""
    x = conv(x, weights, layer, shared=shared, **geometry)
    gain, offset = weights[f"{layer}.bn_weight"].flatten(), weights[f"{layer}.bn_bias"].flatten()
    if x.numel() == x.shape[1]:  # one value per channel is its own mean: duplicates of the image would say the same
        return offset.view(1, -1, 1, 1).to(x.dtype)
    return F.batch_norm(x, None, None, gain, offset, training=True, momentum=0.0, eps=_EPS)


def run_aspp(high: Tensor, weights: Weights, *, dropout: bool, shared: bool) -> Tensor:
    """Return ASPP features `(B, M * c, h, w)` of `(B, C, h, w)`, or of `(B, M * C, h, w)` if not `shared`."""
    branches = [
        F.relu(conv_norm(high, weights, f"aspp.aspp{branch}.atrous_conv", shared=shared, padding=rate, dilation=max(1, rate)))
        for branch, rate in _RATES
    ]
    # Norm over one value per image: rounding is amplified here, so these are the very operations of the original.
    pooled = F.relu(conv_norm(F.adaptive_avg_pool2d(high, 1), weights, "aspp.global_avg_pool.1", shared=shared))
    branches.append(F.interpolate(pooled, size=branches[0].shape[-2:], mode="bilinear", align_corners=True))
    x = F.relu(conv_norm(_beside(branches, count_codes(weights)), weights, "aspp.conv1"))
    return F.dropout(x, 0.5) if dropout else x


def run_decoder(aspp: Tensor, low: Tensor, weights: Weights, *, dropout: bool, shared: bool) -> Tensor:
    """Return logits `(B, M, h, w)` at the size of the low-level features."""
    reduced = F.relu(conv_norm(low, weights, "decoder.conv1", shared=shared))
    x = F.interpolate(aspp, size=low.shape[-2:], mode="bilinear", align_corners=True)
    x = _beside([x, reduced], count_codes(weights))
    x = F.relu(conv_norm(x, weights, "decoder.last_conv.0", padding=1))
    x = F.dropout(x, 0.5) if dropout else x
    x = F.relu(conv_norm(x, weights, "decoder.last_conv.4", padding=1))
    x = F.dropout(x, 0.1) if dropout else x
    return conv(x, weights, "decoder.last_conv.8", shared=False, bias=weights["decoder.last_conv.8.bn_bias"].flatten())


def encode(images: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """Return (high, low) of a generated ResNet-18 with stride 16."""
    x = F.relu(conv_norm(images, weights, "backbone.conv1", shared=True, stride=2, padding=3))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    x = low = _stage(x, weights, 1, blocks=2, stride=1)
    x = _stage(x, weights, 2, blocks=2, stride=2)
    x = _stage(x, weights, 3, blocks=2, stride=2)
    return _stage(x, weights, 4, blocks=3, stride=1), low


def _stage(x: Tensor, weights: Weights, stage: int, *, blocks: int, stride: int) -> Tensor:
    for block in range(blocks):
        name = f"backbone.layer{stage}.{block}"
        rate = MULTI_GRID[block] if stage == 4 else 1
        step = stride if block == 0 else 1
        y = F.relu(conv_norm(x, weights, f"{name}.conv1", stride=step, padding=rate, dilation=rate))
        y = conv_norm(y, weights, f"{name}.conv2", padding=rate, dilation=rate)
        if f"{name}.downsample.0.weight" in weights:
            x = conv_norm(x, weights, f"{name}.downsample.0", stride=step)
        x = F.relu(y + x)
    return x


def _beside(parts: list[Tensor], codes: int) -> Tensor:
    """Concatenate channels code by code."""
    if codes == 1:
        return torch.cat(parts, 1)
    return torch.cat([part.reshape(part.shape[0], codes, -1, *part.shape[2:]) for part in parts], 2).flatten(1, 2)
