"""Frames and masks as the label-propagation protocol prepares them, and its label maps back at the frame's size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from vos_core.errors import FrameError
from vos_core.ops.resize import ResizePolicy, resize
from vos_core.types import LabelMap, RgbImage

MEAN = (0.485, 0.456, 0.406)
STD = (0.228, 0.224, 0.225)
"""The first value is 0.229 everywhere else: DINO's evaluation has 0.228, and published numbers were made with it."""
MULTIPLE = 64
"""Sides are floored to a multiple of this."""


def working_size(height: int, width: int, scale: Sequence[int]) -> tuple[int, int]:
    """Return the (height, width) a frame is brought to.

    >>> working_size(480, 854, [480]), working_size(480, 880, [480]), working_size(600, 200, [128])
    ((480, 832), (480, 832), (384, 128))

    Args:
        height: of the frame in pixels.
        width: of the frame in pixels.
        scale: the shorter side, which the longer one follows, floored to a multiple of 64; or (height, width) exactly.

    Raises:
        FrameError: an empty frame.
    """
    if height < 1 or width < 1:
        raise FrameError(f"a frame of {width}x{height} pixels", expected="1 pixel or more on each side")
    if len(scale) == 2:
        return scale[0], scale[1]
    (short,) = scale
    if height > width:
        return int(short * height / width // MULTIPLE * MULTIPLE), short
    return short, int(short * width / height // MULTIPLE * MULTIPLE)


def normalise(rgb: RgbImage, size: tuple[int, int]) -> Tensor:
    """Return a frame as the encoder takes it, float32 `(1, 3, *size)`: OpenCV bilinear on bytes, then z-scores."""
    picture = resize(rgb, size, ResizePolicy.OPENCV_BILINEAR)
    image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return ((image - mean) / std).unsqueeze(0)


def one_hot_tokens(labels: npt.NDArray[np.uint8], grid: tuple[int, int], channels: int) -> Tensor:
    """Return a map of label places (0 = background) at the token grid, one-hot float32 `(h * w, channels)`; Pillow's nearest."""
    small = resize(labels, grid, ResizePolicy.PILLOW_NEAREST)
    return F.one_hot(torch.from_numpy(small.astype(np.int64)).flatten(), channels).float()


def stretched(soft: Tensor, patch: int) -> Tensor:
    """Return soft labels at the working size, each channel stretched to 0-1 over the frame.

    Args:
        soft: `(C, h, w)`.
        patch: factor of the bilinear upsampling.
    """
    big = F.interpolate(
        soft.unsqueeze(0), scale_factor=patch, mode="bilinear", align_corners=False, recompute_scale_factor=False
    )[0]
    low, high = (value.view(-1, 1, 1) for value in torch.aminmax(big.flatten(1), dim=1))
    # A channel that is 0 everywhere stays so; a constant one becomes 0 / 0 in the original and is 0 here.
    span = (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.where(high > 0, (big - low) / span, big)


def to_frame(labels: LabelMap, size: tuple[int, int]) -> LabelMap:
    """Return a label map at the frame's size (Pillow's nearest)."""
    return resize(labels, size, ResizePolicy.PILLOW_NEAREST)
