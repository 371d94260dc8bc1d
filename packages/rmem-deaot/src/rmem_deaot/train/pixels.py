"""Training clips as pixels: label maps with dense ids, and two clips made one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rmem_deaot.config import SLOTS
from vos_core.types import VOID, RgbImage

Labels = npt.NDArray[np.uint8]
LEAST_PIXELS = 100
"""An object of a merged clip, or of a crop that is looked for, has more pixels than this in the first frame."""


@dataclass(frozen=True, slots=True)
class PixelClip:
    """Frames of one training clip, the reference first.

    Args:
        images: uint8 `(H, W, 3)` each.
        labels: uint8 `(H, W)` each; 1..`objects` as in the reference, 0 background, 255 ignored.
        objects: number of objects.
    """

    images: Sequence[RgbImage]
    labels: Sequence[Labels]
    objects: int


def object_pixels(labels: npt.NDArray[np.integer]) -> dict[int, int]:
    """Return id -> number of pixels of the objects in a label map, in ascending order of ids."""
    ids, counts = np.unique(labels, return_counts=True)
    return {int(i): int(n) for i, n in zip(ids, counts, strict=True) if i not in (0, VOID)}


def reindexed(images: Sequence[RgbImage], labels: Sequence[Labels], kept: Sequence[int]) -> PixelClip:
    """Return a clip in which the objects `kept` are 1, 2, ... in that order, all others background."""
    table = np.zeros(256, np.uint8)
    table[VOID] = VOID
    for place, object_id in enumerate(kept, start=1):
        table[object_id] = place
    return PixelClip(images, [table[one] for one in labels], len(kept))


def merged(first: PixelClip, second: PixelClip, rng: np.random.Generator) -> PixelClip:
    """Return `first` with the objects of `second` pasted over it, both of one size (spec section 4.4).

    Objects with more than 100 pixels in the reference stay, at most ten, drawn at random; ignored pixels of either stay where
    no object is.
    """
    images, labels = [], []
    for image_a, label_a, image_b, label_b in zip(first.images, first.labels, second.images, second.labels, strict=True):
        pasted = (label_b != 0) & (label_b != VOID)
        label = np.where(pasted, label_b + SLOTS, label_a).astype(np.uint8)
        label[(label == 0) & (label_b == VOID)] = VOID
        images.append(np.where(pasted[..., None], image_b, image_a))
        labels.append(label)
    kept = [object_id for object_id, pixels in object_pixels(labels[0]).items() if pixels > LEAST_PIXELS]
    if len(kept) > SLOTS:
        kept = sorted(int(object_id) for object_id in rng.permutation(kept)[:SLOTS])
    return reindexed(images, labels, kept)
