"""From a decoded frame to the network's input, and label maps to and from its size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vos_core.ops.resize import ResizePolicy, resize
from vos_core.types import RgbImage

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
STRIDE = 16
RATIO = 800 / 480
"""Longer side's bound over the shorter side's: the published settings name 624 and mean 1040 by it."""


def input_size(
    height: int, width: int, *, scale: float = 1.0, max_short: float | None = None, max_long: float | None, align_corners: bool
) -> tuple[int, int]:
    """Return height and width of the network's input for a frame (spec section 3.1).

    Args:
        height: of the frame, in pixels.
        width: of the frame, in pixels.
        scale: of test-time augmentation, on top of the bounds.
        max_short: bound of the shorter side; None = none. Bounds only shrink.
        max_long: bound of the longer side.
        align_corners: sides of 16 a + 1, else of 16 a pixels.

    >>> input_size(480, 854, max_long=1040, align_corners=True)
    (481, 849)
    """
    new_height, new_width = float(height), float(width)
    if max_short is not None and min(new_height, new_width) > max_short:
        factor = max_short / min(new_height, new_width)
        new_height, new_width = new_height * factor, new_width * factor
    if max_long is not None and max(new_height, new_width) > max_long:
        factor = max_long / max(new_height, new_width)
        new_height, new_width = new_height * factor, new_width * factor
    sides = (int(new_height * scale), int(new_width * scale))
    if align_corners:
        return _at_least(round((sides[0] - 1) / STRIDE), 1), _at_least(round((sides[1] - 1) / STRIDE), 1)
    return _at_least(round(sides[0] / STRIDE), 0), _at_least(round(sides[1] / STRIDE), 0)


def _at_least(cells: int, extra: int) -> int:
    return max(cells, 1) * STRIDE + extra


@dataclass(frozen=True, slots=True)
class View:
    """One way to look at a clip's frames.

    Args:
        size: height and width of the network's input.
        flipped: whether it is mirrored left-right.
        device: where tensors go.
    """

    size: tuple[int, int]
    flipped: bool = False
    device: str | torch.device = "cpu"

    def image(self, rgb: RgbImage) -> Tensor:
        """Return the network's input, float32 `(1, 3, H, W)`: resized by OpenCV's bicubic without clipping, then normalised."""
        resized = resize(rgb.astype(np.float32), self.size, ResizePolicy.OPENCV_BICUBIC)
        image = torch.from_numpy(np.ascontiguousarray(resized[:, ::-1] if self.flipped else resized))
        image = image.to(self.device).div_(255).sub_(image.new_tensor(MEAN, device=self.device))
        return image.div_(image.new_tensor(STD)).permute(2, 0, 1).unsqueeze(0)

    def labels(self, labels: Tensor) -> Tensor:
        """Return a label map `(H, W)` of any size at the network's, nearest neighbour; mirrored before, if this view is."""
        shown = labels.flip(1) if self.flipped else labels
        return resize(shown, self.size, ResizePolicy.TORCH_NEAREST)

    def soft_masks(self, probs: Tensor, *, align_corners: bool) -> Tensor:
        """Return probabilities `(C, H, W)` of any size at the network's, bilinear; mirrored before, if this view is."""
        shown = probs.flip(-1) if self.flipped else probs
        return upsample(shown.unsqueeze(0), self.size, align_corners=align_corners)[0]


def upsample(logits: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Return maps `(B, C, h, w)` at `size`, bilinear, float32."""
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=align_corners)
