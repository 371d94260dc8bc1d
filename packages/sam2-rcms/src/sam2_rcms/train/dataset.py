"""Training clips of one or more video sets: frames and masks read, augmented and collated."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sam2_rcms.train.config import DataConfig, SamplerConfig, TrainConfig, TransformStep
from sam2_rcms.train.sampler import ClipSampler, GapSampler, SampleError, UniformSampler
from sam2_rcms.train.transform import ClipFrames, Draws, apply_transforms
from vos_core.data.layout import detect_layout, open_layout
from vos_core.data.listing import Findings, listed_clip, read_lines, subfolders
from vos_core.errors import FrameError, LayoutError, MaskError, UsageError
from vos_core.io.frames import EndOfFrames, VideoFile, read_image
from vos_core.io.masks import present_ids, read_clip_mask, read_clip_objects
from vos_core.training.batches import Mixture
from vos_core.types import BinaryMask, Clip, RgbImage

VIDEO_TRIES = 100
"""Other videos that are tried where one gives no clip."""


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """Clips of equal length with the objects of all of them side by side.

    Args:
        images: normalised float32 `(B, T, 3, S, S)`.
        masks: bool `(T, N, S, S)`.
        video: int64 `(N,)`, which of the B clips an object belongs to.
    """

    images: Tensor
    masks: Tensor
    video: Tensor

    def to(self, device: torch.device) -> ClipBatch:
        """Return the batch on `device`."""
        return ClipBatch(*(part.to(device, non_blocking=True) for part in (self.images, self.masks, self.video)))


def collate(samples: Sequence[ClipBatch]) -> ClipBatch:
    """Return samples as one batch."""
    return ClipBatch(
        torch.cat([one.images for one in samples]),
        torch.cat([one.masks for one in samples], 1),
        torch.cat([torch.full_like(one.video, index) for index, one in enumerate(samples)]),
    )


class VideoClips:
    """Samples of one set of videos.

    Args:
        clips: with masks; frames without one are not shown.
        sampler: which frames and objects.
        transforms: augmentation.
        multiplier: times that an epoch shows each video; of a fraction, other videos in each epoch.

    Raises:
        LayoutError: no clip has masks.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        *,
        sampler: ClipSampler,
        transforms: Sequence[TransformStep],
        multiplier: float = 1.0,
        where: str,
    ) -> None:
        self.clips = [clip for clip in clips if clip.annotations]
        if not self.clips:
            raise LayoutError(f"{where} has no clip with masks", fix="Give a training split with its masks")
        self.sampler, self.transforms, self.multiplier, self.where = sampler, tuple(transforms), multiplier, where

    def __len__(self) -> int:
        return max(1, round(len(self.clips) * self.multiplier))

    def draw(self, index: int, *, epoch: int, rng: np.random.Generator) -> ClipBatch:
        """Return one clip; a video from which none can be drawn is replaced by another one.

        Raises:
            LayoutError: no video gave a clip in 100 tries.
            FrameError: a frame cannot be read.
            MaskError: a mask cannot be read, or has another size than its frame.
        """
        draws = Draws.of(int(rng.integers(2**31)))
        which = self._video(index, epoch)
        for _ in range(VIDEO_TRIES):
            try:
                clip = self._loaded(self.clips[which], draws.python)
            except SampleError as error:
                why = error
                which = draws.python.randrange(0, len(self.clips))
                continue
            images, masks = apply_transforms(clip, self.transforms, draws)
            return ClipBatch(images[None], masks, torch.zeros(masks.shape[1], dtype=torch.int64))
        raise LayoutError(
            f"{self.where}: none of {VIDEO_TRIES} drawn videos gave a clip (the last one: {why.found})", fix=why.fix
        )

    def _video(self, index: int, epoch: int) -> int:
        whole, count = divmod(index, len(self.clips))
        if whole < int(self.multiplier):
            return count
        return int(np.random.default_rng(epoch).permutation(len(self.clips))[count])

    def _loaded(self, clip: Clip, rng: random.Random) -> ClipFrames:
        names = annotated_names(clip)

        @functools.cache
        def objects(index: int) -> Mapping[int, BinaryMask]:
            return seen_objects(clip, names[index])

        chosen = self.sampler.draw(len(names), lambda index: list(objects(index)), rng)
        if not chosen.objects:
            raise SampleError(f"video {clip.name}: no object is visible in the first frame of the drawn clip")
        shown = sorted(set(chosen.frames))
        found = zip(shown, read_frames(clip, [names[index] for index in shown]), strict=True)
        images = {index: Image.fromarray(rgb) for index, rgb in found}
        masks = {index: object_masks(objects(index), chosen.objects, images[index]) for index in shown}
        sizes = {image.size for image in images.values()}
        if len(sizes) > 1:
            raise FrameError(f"video {clip.name} has frames of different sizes", expected="one size", fix="Leave the video out")
        for index, image in images.items():
            if masks[index].shape[1:] != (image.height, image.width):
                raise MaskError(
                    f"mask {names[index]} of video {clip.name} is {masks[index].shape[2]}x{masks[index].shape[1]}",
                    expected=f"{image.width}x{image.height} like its frame",
                )
        return ClipFrames([images[index] for index in chosen.frames], [masks[index] for index in chosen.frames])


def annotated_names(clip: Clip) -> tuple[str, ...]:
    """Return the names of the frames that have a mask, in time order."""
    if clip.video is not None:
        return tuple(sorted(clip.annotations))
    return tuple(path.stem for path in clip.frames if path.stem in clip.annotations)


def seen_objects(clip: Clip, frame_name: str) -> dict[int, BinaryMask]:
    """Return the masks of a frame that are not empty, by object id, in the order of their first pixel, row by row."""
    if clip.mask_kind == "objects":
        found = {object_id: mask for object_id, mask in read_clip_objects(clip, frame_name).items() if mask.any()}
    else:
        labels = read_clip_mask(clip, frame_name)
        found = {int(object_id): labels == object_id for object_id in present_ids(labels)}
    return dict(sorted(found.items(), key=lambda item: int(item[1].argmax())))


def object_masks(found: Mapping[int, BinaryMask], objects: Sequence[int], image: Image.Image) -> Tensor:
    """Return uint8 `(N, H, W)` of 0 and 1, all 0 where an object is absent; the size of `image` where all are."""
    shape = next((mask.shape for mask in found.values()), (image.height, image.width))
    empty = np.zeros(shape, np.bool_)
    return torch.from_numpy(np.stack([found.get(object_id, empty) for object_id in objects]).astype(np.uint8))


def read_frames(clip: Clip, names: Sequence[str]) -> list[RgbImage]:
    """Return the frames called `names`, in time order, decoded from image files or from the clip's video.

    Raises:
        FrameError: a frame cannot be read, or the video ends before it.
    """
    if clip.video is None:
        paths = {path.stem: path for path in clip.frames}
        return [read_image(paths[name]) for name in names]
    with contextlib.closing(VideoFile(clip.video)) as video:
        try:
            return [video.read(int(name)).rgb for name in names]
        except EndOfFrames as error:
            raise FrameError(
                f"masks of clip '{clip.name}' name the frames {names[0]} to {names[-1]}, but {error}",
                fix="Copy video and masks from the data set again",
            ) from error


def build_sampler(config: SamplerConfig) -> ClipSampler:
    """Return the sampler that a configuration describes."""
    if config.kind == "uniform":
        return UniformSampler(config.num_frames, config.max_num_objects, config.reverse_time_prob, config.allow_repeat)
    return GapSampler(
        config.num_frames,
        config.max_num_objects,
        config.gap_options,
        config.ensure_first_frame_visible,
        config.reverse_time_prob,
        config.consecutive_if_starved,
    )


def training_set(config: TrainConfig) -> Mixture:
    """Return the samples of all training sets, one set after the other.

    Raises:
        UsageError: no folder is given.
        LayoutError: a folder is not laid out as it must be, or has no masks.
    """
    sampler = build_sampler(config.sampler)
    parts = [
        VideoClips(
            training_clips(one),
            sampler=sampler,
            transforms=config.transforms,
            multiplier=one.multiplier,
            where=str(one.root or one.img_folder),
        )
        for one in config.data
    ]
    return Mixture([(part, 1) for part in parts])


def training_clips(config: DataConfig) -> list[Clip]:
    """Return the clips of one training set.

    Raises:
        UsageError: no folder is given, or a listed clip is not there.
        LayoutError: the folder is not laid out as it must be.
    """
    if config.root is not None:
        layout = detect_layout(config.root) if config.layout == "auto" and config.root.is_dir() else config.layout
        videos = open_layout(layout, config.root, None if layout == "folder" else config.split)
        names = videos.names if config.file_list_txt is None else tuple(read_lines(config.file_list_txt))
        return list(videos.subset(names))
    if config.img_folder is None or config.gt_folder is None:
        raise UsageError(
            "no training data was named",
            fix="Pass --data ROOT (with --layout), or --img-folder and --gt-folder, or set data.root",
        )
    return _paired_folders(config.img_folder, config.gt_folder, config.file_list_txt)


def _paired_folders(frames: Path, masks: Path, list_file: Path | None) -> list[Clip]:
    for folder in (frames, masks):
        if not folder.is_dir():
            raise LayoutError(f"folder {folder} does not exist", expected="one folder of frames or masks for each clip")
    names = subfolders(frames) if list_file is None else tuple(read_lines(list_file))
    findings = Findings()
    clips = [listed_clip(name, frames / name, masks / name, findings, annotated="some", order="number") for name in names]
    if findings.problems:
        first = findings.problems[0]
        raise LayoutError(f"{first.path}: {first.found}", fix=first.fix)
    return [clip for clip in clips if clip is not None]
