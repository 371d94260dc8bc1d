"""Annotated frames of a clip as the images of one object: what one-shot fitting trains on."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch

from object_pursuit.data.images import Size, resize_frame, resize_truth
from object_pursuit.data.order import crop_box, crop_offset
from object_pursuit.samples import Samples
from vos_core.types import BinaryMask, RgbImage


class AnnotatedFrames:
    """Random squares of a few frames, as many samples as the clip has frames: sample i shows annotated frame i mod n.

    Args:
        name: of the object.
        frames: (RGB, mask) of each annotated frame, oldest first.
        size: (height, width) of the samples.
        length: samples in an epoch; at least one for each annotated frame.
        crop: take random squares; False shows the whole frame each time.
        seed: of the squares.
    """

    def __init__(
        self,
        name: str,
        frames: Sequence[tuple[RgbImage, BinaryMask]],
        *,
        size: Size,
        length: int,
        crop: bool = True,
        seed: int = 0,
    ) -> None:
        self.name, self.frames, self.size, self.seed = name, tuple(frames), size, seed
        self.cropped = crop
        self.length = max(length, len(self.frames))

    def __len__(self) -> int:
        return self.length

    def read(self, indices: Sequence[int], *, draw: int) -> Samples:
        """Return the samples at `indices`; squares depend on (seed, draw, place in `indices`, index) alone."""
        images, masks = [], []
        for place, index in enumerate(indices):
            rgb, mask = self.frames[index % len(self.frames)]
            if self.cropped:
                height, width = mask.shape
                drawn = np.random.default_rng((self.seed, draw, place, index)).integers(2**63)
                left, upper, right, lower = crop_box(width, height, crop_offset(width, height, random.Random(int(drawn))))
                rgb, mask = rgb[upper:lower, left:right], mask[upper:lower, left:right]
            images.append(resize_frame(np.ascontiguousarray(rgb), self.size))
            masks.append(resize_truth(np.ascontiguousarray(mask), self.size))
        return Samples(torch.stack(images), torch.stack(masks))
