"""Frames as the JHMDB and VIP protocol wants them: size rule, float resize, normalisation with 0.229."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vos_core.errors import UsageError
from vos_core.types import RgbImage

MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)  # not DAVIS evaluation's 0.228: another code base
_MULTIPLE = 64


def processed_size(height: int, width: int, size: Sequence[int], *, patch: int = 16) -> tuple[int, int]:
    """Return (height, width) that a frame is resized to.

    >>> processed_size(240, 428, [480])
    (256, 480)

    Args:
        height, width: of the frame in pixels.
        size: one number: the longer side; the other one is in proportion, rounded down to a multiple of 64 (of a square frame
            the width is). Two numbers: exact (height, width).
        patch: side of the encoder's patches in pixels.

    Raises:
        UsageError: neither one nor two numbers, or a side that is no multiple of `patch`.
    """
    if len(size) == 2:
        found = (size[0], size[1])
    elif len(size) == 1 and height > width:
        found = (size[0], _floored(size[0] * width / height))
    elif len(size) == 1:
        floored = _floored(size[0] * min(height, width) / max(height, width))
        found = (size[0], floored) if height == width else (floored, size[0])
    else:
        raise UsageError(f"{len(size)} numbers for a size", expected="one (longer side) or two (height,width)")
    if min(found) < patch or found[0] % patch or found[1] % patch:
        raise UsageError(
            f"frames of {width}x{height} would become {found[1]}x{found[0]} pixels",
            expected=f"sides that are multiples of the patch size {patch}",
            fix="Choose another --size",
        )
    return found


def prepare(rgb: RgbImage, size: tuple[int, int]) -> Tensor:
    """Return a frame at `size` (height, width), float32 `(3, H, W)`, normalised; resized after the conversion to float."""
    scaled = rgb.astype(np.float32) / np.float32(255)
    resized = resize_linear(scaled, size)
    return torch.from_numpy(np.ascontiguousarray(((resized - MEAN) / STD).transpose(2, 0, 1)))


def resize_linear(array: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return float32 `(H, W, C)` at `size` by OpenCV's bilinear rule, channel by channel (OpenCV has a limit of channels)."""
    if array.shape[:2] == size:
        return array
    planes = [cv2.resize(np.ascontiguousarray(array[..., c]), size[::-1]) for c in range(array.shape[2])]
    return np.stack(planes, 2).astype(np.float32, copy=False)


def _floored(side: float) -> int:
    return int(side) // _MULTIPLE * _MULTIPLE
