"""Pairs of frames for pre-training: which two frames, which crop, mirrored or not (spec section 4)."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from rsp_pretrain.data.readers import FrameReader, open_reader
from vos_core.config import Config
from vos_core.errors import FrameError
from vos_core.types import RgbImage

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
_TRIES = 10  # videos in a row that may be unreadable before a run stops


class PairConfig(Config):
    """How pairs are drawn from a video; the defaults are those of the paper."""

    repeated_sampling: int = Field(default=2, ge=1, description="Pairs drawn from one video, each with its own crop.")
    max_distance: int = Field(default=48, ge=1, description="Largest gap of a pair in frames.")
    min_distance: int = Field(default=4, ge=1, description="Smallest gap of a pair in frames; shorter in videos of few frames.")
    size: int = Field(default=224, ge=1, description="Side of the crops in pixels.")
    scale: tuple[float, float] = Field(default=(0.5, 1.0), description="Share of the frame's area that a crop covers.")
    ratio: tuple[float, float] = Field(default=(3 / 4, 4 / 3), description="Width over height of a crop before resizing.")
    flip: float = Field(default=0.5, ge=0, le=1, description="Probability that a pair is mirrored.")


class PairPlan(NamedTuple):
    """One pair before it is read.

    Args:
        source: frame number.
        target: frame number, later than `source`.
        crop: top, left, height, width in pixels.
        flip: mirror both frames.
    """

    source: int
    target: int
    crop: tuple[int, int, int, int]
    flip: bool


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of one video.

    Args:
        source: uint8 `(R, 3, S, S)` RGB.
        target: likewise.
        plans: how they were made.
    """

    source: Tensor
    target: Tensor
    plans: tuple[PairPlan, ...] = field(default=())


def normalise(images: Tensor) -> Tensor:
    """Return uint8 images `(..., 3, H, W)`, 0-255, as float32 with the statistics of ImageNet."""
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def draw_frames(count: int, rng: random.Random, *, max_distance: int = 48, min_distance: int = 4) -> tuple[int, int]:
    """Return the numbers of a source frame and of a later target frame of a video of `count` frames.

    With more than `max_distance` frames: a uniform start that leaves room for the largest gap, then a uniform gap. With fewer:
    two different frames, however close.

    Raises:
        FrameError: fewer than two frames.
    """
    if count < 2:
        raise FrameError(f"a video of {count} frame(s)", expected="two frames or more to make a pair")
    if count > max_distance:
        start = rng.randint(0, count - max_distance - 1)
        return start, start + rng.randint(min(min_distance, max_distance), max_distance)
    first, second = sorted(rng.sample(range(count), 2))
    return first, second


def draw_plans(count: int, size: tuple[int, int], config: PairConfig, *, python_seed: int, torch_seed: int) -> list[PairPlan]:
    """Return the pairs of one item of a video of `count` frames of `size` (height, width).

    The draws are those of Python's generator seeded with `python_seed` and of torch's seeded with `torch_seed`, in the order of
    the reference; neither global generator is changed.
    """
    from torchvision.transforms import RandomResizedCrop

    rng = random.Random(python_seed)
    blank = torch.empty(1, 1, 1).expand(3, *size)  # only its size is looked at
    plans = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed)
        for _ in range(config.repeated_sampling):
            source, target = draw_frames(count, rng, max_distance=config.max_distance, min_distance=config.min_distance)
            top, left, height, width = RandomResizedCrop.get_params(blank, list(config.scale), list(config.ratio))
            plans.append(PairPlan(source, target, (top, left, height, width), rng.random() < config.flip))
    return plans


def cut(rgb: RgbImage, plan: PairPlan, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return the crop of a frame at `size` = (height, width) in pixels, mirrored if planned: uint8 `(*size, 3)`.

    Pillow's bicubic, which widens when it shrinks.
    """
    top, left, height, width = plan.crop
    crop = Image.fromarray(rgb[top : top + height, left : left + width])
    picture = np.asarray(crop.resize(size[::-1], Image.Resampling.BICUBIC))
    return picture[:, ::-1] if plan.flip else picture


def read_pairs(reader: FrameReader, plans: Sequence[PairPlan], size: int | tuple[int, int]) -> Pairs:
    """Return the pictures of `plans` at `size` (a side, or height and width); the frames of all pairs are read in one go."""
    size = (size, size) if isinstance(size, int) else size
    frames = reader.read([number for plan in plans for number in (plan.source, plan.target)])
    sources = [cut(frame, plan, size) for frame, plan in zip(frames[0::2], plans, strict=True)]
    targets = [cut(frame, plan, size) for frame, plan in zip(frames[1::2], plans, strict=True)]
    return Pairs(_stack(sources), _stack(targets), tuple(plans))


class FramePairs:
    """Frame pairs of many videos, one item a video; a `vos_core.training.batches.DrawDataset`.

    A video that cannot be read is named in a warning and another takes its place, so that one torn file among 240,000 does not
    end a run.

    Args:
        videos: video files or folders of frames, see `rsp_pretrain.data.sources.find_videos`.
        config: how pairs are drawn.
    """

    def __init__(self, videos: Sequence[Path], config: PairConfig | None = None) -> None:
        self.videos, self.config = list(videos), PairConfig() if config is None else config

    def __len__(self) -> int:
        return len(self.videos)

    def item(self, index: int, *, python_seed: int, torch_seed: int) -> Pairs:
        """Return the pairs of video `index` that these seeds draw.

        Raises:
            FrameError: the video cannot be read.
        """
        reader = open_reader(self.videos[index])
        try:
            plans = draw_plans(len(reader), reader.size, self.config, python_seed=python_seed, torch_seed=torch_seed)
            return read_pairs(reader, plans, self.config.size)
        finally:
            reader.close()

    def draw(self, index: int, *, epoch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return source and target pictures, uint8 `(R, 3, S, S)` each.

        Raises:
            FrameError: ten videos in a row cannot be read.
        """
        for attempt in range(_TRIES):
            place = (index + attempt) % len(self.videos)
            python_seed, torch_seed = (int(number) for number in rng.integers(2**32, size=2))
            try:
                found = self.item(place, python_seed=python_seed, torch_seed=torch_seed)
            except FrameError as error:
                failure = error
                warnings.warn(f"left out of this epoch: {error}", stacklevel=2)
                continue
            return found.source, found.target
        raise FrameError(
            f"{_TRIES} videos in a row cannot be read, the last one because of: {failure}",
            fix="List those that can with: rsp-pretrain data labels",
        ) from failure


def _stack(pictures: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy())
