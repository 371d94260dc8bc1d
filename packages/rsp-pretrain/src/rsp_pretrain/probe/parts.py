"""Body parts as label maps and back: the public VIP protocol (spec 3.4)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from rsp_pretrain.probe.prepare import resize_linear
from vos_core.types import LabelMap


@dataclass(frozen=True, slots=True)
class PartLabels:
    """The label set of a clip and its first frame.

    Args:
        ids: class ids that the first mask shows at the processed size, ascending.
        soft: float32 `(C, h, w)` in the order of `ids`.
    """

    ids: tuple[int, ...]
    soft: npt.NDArray[np.float32]


def part_labels(mask: LabelMap, *, size: tuple[int, int], grid: tuple[int, int]) -> PartLabels:
    """Return the labels that a first mask gives: OpenCV's nearest to `size`, one channel an id, bilinear to `grid`.

    Args:
        mask: `(H, W)` of class ids.
        size: (height, width) of the processed frame.
        grid: (h, w) in tokens.
    """
    # OpenCV's nearest takes floor(i * in / out), another pixel than Pillow's.
    resized = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)
    ids = np.unique(resized)
    hot = (resized[..., None] == ids).astype(np.float32)
    return PartLabels(tuple(int(value) for value in ids), resize_linear(hot, grid).transpose(2, 0, 1))


def parts_of(soft: npt.NDArray[np.float32], ids: tuple[int, ...], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return the class id of every pixel, uint8 `size`: the strongest label after OpenCV's bilinear resize, the first of equals.

    Args:
        soft: `(C, h, w)` in the order of `ids`.
        ids: class ids.
        size: (height, width) of the processed frame.
    """
    full = resize_linear(np.ascontiguousarray(soft.transpose(1, 2, 0)), size)
    return np.array(ids, np.uint8)[full.argmax(2)]


def at_truth_size(parts: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return class ids at the size of the ground truth, by Pillow's nearest: floor((i + 0.5) * in / out)."""
    return np.asarray(Image.fromarray(parts).resize(size[::-1], Image.Resampling.NEAREST))
