"""Boundary maps and disk dilation of binary masks, as the boundary measure F defines them."""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from vos_core.errors import UsageError
from vos_core.ops.backend import backend_of


def boundary_map(mask: Tensor) -> Tensor:
    """Return where the 2 x 2 window with its top-left corner at a pixel is not constant, bool `(..., H, W)`.

    Rows and columns beyond the bottom and right edge repeat the last one, so the bottom-right corner is never a boundary.

    >>> boundary_map(torch.tensor([[False, True], [False, True]])).tolist()
    [[True, False], [True, False]]

    Args:
        mask: `(..., H, W)`, nonzero = object.
    """
    solid = mask != 0
    below = torch.cat((solid[..., 1:, :], solid[..., -1:, :]), -2)
    any_pair, all_pair = solid | below, solid & below
    any_right = torch.cat((any_pair[..., 1:], any_pair[..., -1:]), -1)
    all_right = torch.cat((all_pair[..., 1:], all_pair[..., -1:]), -1)
    return (any_pair | any_right) & ~(all_pair & all_right)


@functools.lru_cache(maxsize=64)
def disk(radius: int) -> npt.NDArray[np.uint8]:
    """Return the disk dy^2 + dx^2 <= radius^2 as uint8 0/1 `(2 radius + 1, 2 radius + 1)`; do not write to it."""
    offset = np.arange(-radius, radius + 1)
    return (offset[:, None] ** 2 + offset[None, :] ** 2 <= radius**2).astype(np.uint8)


def dilate_disk(mask: Tensor, radius: int) -> Tensor:
    """Return where a pixel of the mask lies within `radius`, bool `(..., H, W)`.

    Args:
        mask: `(..., H, W)`, nonzero = object.
        radius: pixels, 0 or more.
    """
    if radius < 0:
        raise UsageError(f"cannot dilate by {radius} pixels", expected="0 or more")
    solid = mask != 0
    if radius == 0:
        return solid
    return _dilate_opencv(solid, radius) if backend_of("morphology", mask) == "opencv" else _dilate_torch(solid, radius)


def _dilate_opencv(solid: Tensor, radius: int) -> Tensor:
    flat = solid.reshape(-1, *solid.shape[-2:]).numpy().view(np.uint8)
    out = [cv2.dilate(image, disk(radius), borderType=cv2.BORDER_CONSTANT, borderValue=0) for image in flat]
    return torch.from_numpy(np.stack(out).view(np.bool_)).reshape(solid.shape) if out else solid


def _dilate_torch(solid: Tensor, radius: int) -> Tensor:
    """Union over dy of rows dilated by floor(sqrt(r^2 - dy^2)); rows with one width share one pooling."""
    height, width = solid.shape[-2:]
    flat = solid.reshape(-1, 1, height, width).float()
    padded = F.pad(flat, (0, 0, radius, radius))
    out = torch.zeros_like(flat)
    pooled, pooled_width = padded, -1
    for dy in range(-radius, radius + 1):
        half = math.isqrt(radius**2 - dy**2)
        if half != pooled_width:
            pooled, pooled_width = _widen(padded, half), half
        out = torch.maximum(out, pooled[..., radius + dy : radius + dy + height, :])
    return (out > 0).reshape(solid.shape)


def _widen(x: Tensor, half: int) -> Tensor:
    return F.max_pool2d(F.pad(x, (half, half)), (1, 2 * half + 1), stride=1) if half else x
