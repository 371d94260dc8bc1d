"""How a frame is shown to a network that takes one size: whole, or as squares that cover it (spec section 3.4)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from object_pursuit.data.images import Size, resize_frame
from vos_core.ops.resize import ResizePolicy, resize
from vos_core.types import RgbImage

WindowRule = Literal["frame", "square"]
Box = tuple[int, int, int, int]
"""(left, upper, right, lower) in pixels."""


def window_boxes(height: int, width: int, rule: WindowRule) -> list[Box]:
    """Return the windows of a frame: all of it, or as few squares of its shorter side as cover it, evenly spaced.

    >>> window_boxes(480, 854, "square")
    [(0, 0, 480, 480), (374, 0, 854, 480)]
    """
    if rule == "frame" or height == width:
        return [(0, 0, width, height)]
    side, long = min(height, width), max(height, width)
    count = math.ceil(long / side)
    starts = [round(k * (long - side) / (count - 1)) for k in range(count)]
    return [(s, 0, s + side, side) if width > height else (0, s, side, s + side) for s in starts]


def window_images(rgb: RgbImage, boxes: list[Box], size: Size) -> Tensor:
    """Return the windows of a frame as network input, float32 `(K, 3, *size)`, 0-1."""
    views = [np.ascontiguousarray(rgb[upper:lower, left:right]) for left, upper, right, lower in boxes]
    return torch.stack([resize_frame(view, size) for view in views])


def join_windows(logits: Tensor, boxes: list[Box], frame_size: Size) -> Tensor:
    """Return logits `(N, H, W)` at the frame's size: each window's enlarged bilinearly, averaged where windows overlap.

    Args:
        logits: `(K, N, h, w)`, one entry per window.
        boxes: the windows.
        frame_size: (H, W).
    """
    if len(boxes) == 1:
        return resize(logits[0], frame_size, ResizePolicy.TORCH_BILINEAR)
    total = logits.new_zeros((logits.shape[1], *frame_size))
    count = logits.new_zeros(frame_size)
    for window, (left, upper, right, lower) in zip(logits, boxes, strict=True):
        total[:, upper:lower, left:right] += resize(window, (lower - upper, right - left), ResizePolicy.TORCH_BILINEAR)
        count[upper:lower, left:right] += 1
    return total / count
