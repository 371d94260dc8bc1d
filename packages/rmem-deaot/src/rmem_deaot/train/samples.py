"""Batches of training clips: a second clip pasted in, pixels normalised, frames first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rmem_deaot.config import SLOTS
from rmem_deaot.train.pixels import PixelClip, merged, reindexed

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """Training clips of one size.

    Args:
        images: uint8 `(L, B, 3, H, W)` RGB, the reference first.
        labels: uint8 `(L, B, H, W)`: 1..n objects, 0 background, 255 ignored.
        objects: number of objects of each clip.
        channels: int64 `(B, 11)`: which identity channel each object is written to, background to 0; drawn with the sample, so
            that it depends neither on the number of ranks nor on where a run stopped.
    """

    images: Tensor
    labels: Tensor
    objects: tuple[int, ...]
    channels: Tensor

    def to(self, device: torch.device) -> ClipBatch:
        """Return the batch on `device`."""
        parts = (part.to(device, non_blocking=True) for part in (self.images, self.labels, self.channels))
        images, labels, channels = parts
        return ClipBatch(images, labels, self.objects, channels)

    def pin_memory(self) -> ClipBatch:
        """Return the batch in page-locked memory; what the loader calls before a copy to a GPU."""
        return ClipBatch(self.images.pin_memory(), self.labels.pin_memory(), self.objects, self.channels.pin_memory())

    @property
    def normalised(self) -> Tensor:
        """Images as the network takes them, float32 `(L, B, 3, H, W)`."""
        mean, std = (torch.tensor(values, device=self.images.device).view(3, 1, 1) for values in (MEAN, STD))
        return (self.images.float() / 255 - mean) / std


class ClipSource(Protocol):
    """Anything that clips can be drawn from."""

    def __len__(self) -> int: ...

    def clip(self, index: int, rng: np.random.Generator) -> PixelClip:
        """Return a training clip of item `index`."""
        ...


class MergedClips:
    """Samples of one source, sometimes two clips in one.

    Args:
        source: of clips.
        merge: chance of a second clip; one without objects always gets it.
        objects: most that a sample has, drawn where there are more.
    """

    def __init__(self, source: ClipSource, *, merge: float, objects: int = SLOTS) -> None:
        self.source, self.merge, self.objects = source, merge, objects

    def __len__(self) -> int:
        return len(self.source)

    def draw(self, index: int, *, epoch: int, rng: np.random.Generator) -> ClipBatch:
        """Return sample `index` as a batch of one."""
        clip = self.source.clip(index, rng)
        if rng.random() < self.merge or clip.objects == 0:
            clip = merged(clip, self.source.clip(int(rng.integers(len(self.source))), rng), rng)
        if clip.objects > self.objects:
            kept = sorted(1 + int(place) for place in rng.permutation(clip.objects)[: self.objects])
            clip = reindexed(clip.images, clip.labels, kept)
        images = np.ascontiguousarray(np.stack(clip.images).transpose(0, 3, 1, 2))
        channels = np.concatenate(([0], 1 + rng.permutation(SLOTS)))[None].astype(np.int64)
        labels = torch.from_numpy(np.stack(clip.labels))[:, None]
        return ClipBatch(torch.from_numpy(images)[:, None], labels, (clip.objects,), torch.from_numpy(channels))


def collate(samples: Sequence[ClipBatch]) -> ClipBatch:
    """Return samples as one batch."""
    return ClipBatch(
        torch.cat([one.images for one in samples], 1),
        torch.cat([one.labels for one in samples], 1),
        tuple(count for one in samples for count in one.objects),
        torch.cat([one.channels for one in samples]),
    )
