"""Clips drawn from videos: which frames, how far apart, and which of them is the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rmem_deaot.train.augment import TRIES, random_crop, recoloured
from rmem_deaot.train.pixels import Labels, PixelClip, object_pixels
from rmem_deaot.train.stages import Augmentation
from vos_core.errors import LayoutError, MaskError
from vos_core.io.frames import image_size, read_image
from vos_core.io.masks import read_mask
from vos_core.types import VOID, Clip

LEAST_FOREGROUND = 200
"""Pixels of objects that a reference frame has more of."""
REFERENCE_TRIES = 20
MOST_IGNORED = 0.2
"""VOST: most ignored pixels of a reference frame, as a share of those of objects."""


@dataclass(frozen=True, slots=True)
class Annotated:
    """A clip's frames that have masks, in time order."""

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]


def annotated_clips(clips: Sequence[Clip], *, where: str) -> list[Annotated]:
    """Return the clips with two or more annotated frames.

    Raises:
        LayoutError: there is none.
    """
    found = []
    for clip in clips:
        pairs = [(path, clip.annotations[path.stem]) for path in clip.frames if path.stem in clip.annotations]
        if len(pairs) >= 2 and clip.mask_kind != "objects":
            found.append(Annotated(clip.name, tuple(a for a, _ in pairs), tuple(b for _, b in pairs)))
    if not found:
        raise LayoutError(f"{where} has no clip with two annotated frames", fix="Give a training split with its masks")
    return found


class VideoClips:
    """Training clips of one video data set.

    Args:
        clips: with masks.
        frames: of a training clip.
        reach: largest step between two of them.
        size: side in pixels.
        augmentation: v2 also changes colours.
        ignore: VOST's choice of the reference: more tries, few ignored pixels, room for the clip behind it; and 255 is kept.
    """

    def __init__(
        self,
        clips: Sequence[Annotated],
        *,
        frames: int,
        reach: int,
        size: int,
        augmentation: Augmentation = "v1",
        ignore: bool = False,
    ) -> None:
        self.clips, self.frames, self.reach, self.size = list(clips), frames, reach, size
        self.augmentation, self.ignore = augmentation, ignore

    def __len__(self) -> int:
        return len(self.clips)

    def clip(self, index: int, rng: np.random.Generator) -> PixelClip:
        """Return one training clip of video `index`.

        Raises:
            FrameError: a frame cannot be read.
            MaskError: a mask cannot be read, has another size than its frame or ids above 254.
        """
        video = self.clips[index]
        backwards = rng.random() < 0.5
        order = range(len(video.frames))[:: -1 if backwards else 1]
        reference, label = self._reference(video, order, rng)
        known = object_pixels(label).keys()
        for _ in range(TRIES):
            places = walk(reference, len(order), self.frames, self.reach, rng)
            labels = [label, *(self._labels(video, order[place]) for place in places[1:])]
            if all(object_pixels(one).keys() <= known for one in labels[1:]):
                break
        images = [read_image(video.frames[order[place]]) for place in places]
        cut = random_crop(images, labels, rng, size=self.size)
        if self.augmentation == "v1":
            return cut
        coloured = [np.asarray(recoloured(Image.fromarray(np.ascontiguousarray(image)), rng)) for image in cut.images]
        return PixelClip(coloured, cut.labels, cut.objects)

    def _reference(self, video: Annotated, order: Sequence[int], rng: np.random.Generator) -> tuple[int, Labels]:
        room = max(1, len(order) - self.frames + 1) if self.ignore else len(order)
        for _ in range(2 * REFERENCE_TRIES if self.ignore else REFERENCE_TRIES):
            place = int(rng.integers(room))
            label = self._labels(video, order[place])
            foreground = sum(object_pixels(label).values())
            clear = not self.ignore or int((label == VOID).sum()) <= MOST_IGNORED * foreground
            if foreground > LEAST_FOREGROUND and clear:
                break
        return place, label

    def _labels(self, video: Annotated, index: int) -> Labels:
        path = video.masks[index]
        label = read_mask(path, size=image_size(video.frames[index]))
        if label.dtype != np.uint8:
            raise MaskError(f"mask {path} has 16-bit ids", expected="ids up to 254", fix="Renumber the objects")
        if not self.ignore:
            label = np.where(label == VOID, 0, label)
        return label.astype(np.uint8)


def walk(start: int, length: int, count: int, reach: int, rng: np.random.Generator) -> list[int]:
    """Return `count` positions from `start` on, each 1 to `reach` after the one before, reflected at the ends of the clip."""
    places = start + np.concatenate(([0], np.cumsum(rng.integers(1, reach + 1, size=count - 1))))
    turn = max(1, 2 * (length - 1))
    return [int(min(place % turn, turn - place % turn)) if length > 1 else 0 for place in places]
