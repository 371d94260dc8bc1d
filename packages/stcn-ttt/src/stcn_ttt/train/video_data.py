"""Triplets of video frames: DAVIS, YouTube-VOS and BL30K."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from stcn_ttt.prepare import normalise
from stcn_ttt.train.objective import Triplets
from vos_core.errors import ConfigError, LayoutError
from vos_core.io.frames import read_image
from vos_core.io.masks import read_mask
from vos_core.training.clip_augment import Affine, ColourJitter, ResizedCrop, flip, grey
from vos_core.types import Clip, LabelMap

SIZE = 384
TRIES = 5


@dataclass(frozen=True, slots=True)
class Annotated:
    """A clip's frames that have masks, in time order."""

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]


def annotated_clips(clips: Sequence[Clip], *, subset: frozenset[str] | None = None, where: str) -> list[Annotated]:
    """Return the clips with three or more annotated frames, those of `subset` only if given.

    Raises:
        LayoutError: none is left.
    """
    found = []
    for clip in clips:
        pairs = [(path, clip.annotations[path.stem]) for path in clip.frames if path.stem in clip.annotations]
        if len(pairs) >= 3 and (subset is None or clip.name in subset):
            found.append(Annotated(clip.name, tuple(a for a, _ in pairs), tuple(b for _, b in pairs)))
    if not found:
        raise LayoutError(f"{where} has no clip with three annotated frames", fix="Give a training split with its masks")
    return found


def read_subset(path: Path, key: str | None = None) -> frozenset[str]:
    """Return clip names from a text file (one a line) or a JSON file (a list, or a mapping with `key`).

    Raises:
        ConfigError: the file is absent or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            return frozenset(line.strip() for line in text.splitlines() if line.strip())
        value = json.loads(text)
        names = value[key] if isinstance(value, dict) and key is not None else value
        if not isinstance(names, list):
            raise TypeError(f"a {type(names).__name__} instead of a list")
        return frozenset(str(name) for name in names)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"subset file {path} cannot be used ({error})", expected="clip names, one a line, or a JSON list"
        ) from error


def draw_triplet(rng: np.random.Generator, frames: int, max_skip: int) -> list[int]:
    """Return three frame indices at most `max_skip` + 1 apart, reversed in time half of the times."""
    reach = min(frames, max_skip)
    first = int(rng.integers(frames - reach + 1))
    second = min(first + int(rng.integers(reach + 1)) + 1, frames - reach, frames - 1)
    third = min(second + int(rng.integers(reach + 1)) + 1, frames - reach // 2, frames - 1)
    picked = [first, second, third]
    return picked[::-1] if rng.random() < 0.5 else picked


class VideoTriplets:
    """Samples of one video data set.

    Args:
        clips: with masks.
        skip: epoch -> largest gap, in annotated frames of this set.
        min_crop: smallest share of the area that a crop keeps.
        ignore_small: BL30K's rule for objects too small to follow.
        size: side of the samples in pixels.
    """

    def __init__(
        self,
        clips: Sequence[Annotated],
        *,
        skip: Callable[[int], int],
        min_crop: float = 0.36,
        ignore_small: bool = False,
        size: int = SIZE,
    ) -> None:
        self.clips, self.skip, self.min_crop, self.ignore_small, self.size = list(clips), skip, min_crop, ignore_small, size

    def __len__(self) -> int:
        return len(self.clips)

    def draw(self, index: int, *, epoch: int, rng: np.random.Generator) -> Triplets:
        """Return one sample with a leading batch dimension of 1; all black masks if five tries showed no object."""
        clip = self.clips[index]
        for _ in range(TRIES):
            frames = draw_triplet(rng, len(clip.frames), self.skip(epoch))
            images, labels = self._augmented(clip, frames, rng)
            candidates = self._candidates(labels)
            if candidates:
                break
        chosen = [int(label) for label in rng.permutation(candidates)[:2]]
        classes = np.zeros((3, self.size, self.size), np.int64)
        for slot, label in enumerate(chosen):
            classes[np.stack(labels) == label] = slot + 1
        selector = torch.tensor([[1.0, float(len(chosen) > 1)]])
        return Triplets(torch.stack(images)[None], torch.from_numpy(classes)[None], selector)

    def _augmented(
        self, clip: Annotated, frames: Sequence[int], rng: np.random.Generator
    ) -> tuple[list[torch.Tensor], list[LabelMap]]:
        crop = jitter = None
        mirrored, greyed = rng.random() < 0.5, rng.random() < 0.05
        images, labels = [], []
        for index in frames:
            image = Image.fromarray(read_image(clip.frames[index]))
            mask = Image.fromarray(read_mask(clip.masks[index], size=(image.height, image.width)))
            if crop is None:
                crop = ResizedCrop.draw(rng, image.height, image.width, size=self.size, scale=(self.min_crop, 1.0))
                jitter = ColourJitter.draw(rng, brightness=0.1, contrast=0.03, saturation=0.03)
            assert jitter is not None
            if mirrored:
                image, mask = flip(image), flip(mask)
            image = jitter.image(crop.image(image))
            image = grey(image) if greyed else image
            warp = Affine.draw(rng, degrees=15, shear=10)
            image = ColourJitter.draw(rng, brightness=0.01, contrast=0.01, saturation=0.01).image(warp.image(image))
            images.append(normalise(np.asarray(image)))
            labels.append(np.asarray(warp.mask(crop.mask(mask))))
        return images, labels

    def _candidates(self, labels: Sequence[LabelMap]) -> list[int]:
        areas: npt.NDArray[np.int64] = np.stack([np.bincount(one.ravel(), minlength=256)[:256] for one in labels])
        present = [label for label in range(1, 255) if areas[0, label]]
        if not self.ignore_small:
            return present
        later = areas[1:].max(0)
        return [label for label in present if areas[0, label] > 900 or (areas[0, label] > 100 and later[label] < 400)]


def collate(samples: Sequence[Triplets]) -> Triplets:
    """Return samples as one batch."""
    return Triplets(*(torch.cat([getattr(one, name) for one in samples]) for name in ("images", "classes", "selector")))
