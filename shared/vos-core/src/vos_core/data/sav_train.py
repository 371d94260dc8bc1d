"""SA-V training videos: one mp4 with the JSON files of its manual and automatic masklets beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from vos_core.data.listing import Findings, files, some_of, subfolders
from vos_core.errors import LayoutError, MaskError, VosError
from vos_core.io.frames import VideoFile
from vos_core.io.rle import area
from vos_core.io.sav_json import read_clip_json
from vos_core.types import Clip

KINDS = {"train": "manual", "train_auto": "auto"}
"""Split -> ending of its JSON files: `<video>_manual.json`, `<video>_auto.json`."""


class MaskletFrames(Mapping[str, Path]):
    """Annotated frame name -> the JSON file; the file is read when a name is first asked for, so that listing stays cheap.

    Args:
        path: the file of one video.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, name: str) -> Path:
        if name not in read_clip_json(self.path).frames:
            raise KeyError(name)
        return self.path

    def __iter__(self) -> Iterator[str]:
        return iter(read_clip_json(self.path).frames)

    def __len__(self) -> int:
        return len(read_clip_json(self.path).frames)


def find_videos(root: Path) -> Path | None:
    """Return the folder that holds SA-V training videos, in itself or in its folders, or None."""
    for base in (root / "sav_train", root / "train", root):
        if any(next(base.glob(place + f"*_{kind}.json"), None) for place in ("", "sav_[0-9]*/") for kind in KINDS.values()):
            return base
    return None


def train_clips(root: Path, split: str, findings: Findings) -> list[Clip]:
    """Return the videos below `root` that have masklets of a split, in the order of their names.

    Raises:
        LayoutError: there is no video with masklets.
    """
    base = find_videos(root)
    if base is None:
        raise LayoutError(
            f"{root} has no SA-V training video",
            expected=f"{root}/sav_train/sav_000/sav_000001.mp4 with sav_000001_manual.json beside it",
            fix="Give the folder that holds it, or name the right layout",
        )
    clips, without = [], []
    for folder in (base, *(base / name for name in subfolders(base))):
        ending = f"_{KINDS[split]}"
        masks = {path.stem.removesuffix(ending): path for path in files(folder, (".json",)) if path.stem.endswith(ending)}
        videos = {path.stem: path for path in files(folder, (".mp4",))}
        for name in sorted(masks.keys() - videos.keys()):
            findings.error(masks[name], f"its video {name}.mp4 is missing", "Copy it from the data set again")
        without += sorted(videos.keys() - masks.keys())
        clips += [
            Clip(name, video=videos[name], annotations=MaskletFrames(masks[name]), mask_kind="objects", void=None)
            for name in sorted(masks.keys() & videos.keys())
        ]
    if without:
        findings.note(base, f"videos {some_of(without)} have no {KINDS[split]} masklets and are left out", "Ignore this")
    if not clips and not findings.problems:
        raise LayoutError(f"{base} has no masklets of split {split}", expected=f"<video>_{KINDS[split]}.json", fix="Copy them")
    return clips


def check_masklets(clip: Clip, findings: Findings) -> None:
    """Note a damaged JSON file, and what does not fit between it and the video of a clip from `train_clips`."""
    if clip.video is None or not isinstance(clip.annotations, MaskletFrames):
        return
    path, fix = clip.annotations.path, "Copy video and masks from the data set again"
    try:
        found = read_clip_json(path)
        video = VideoFile(clip.video)
    except VosError as error:
        findings.error(path if isinstance(error, MaskError) else clip.video, error.found, error.fix or fix)
        return
    with contextlib.closing(video):
        (height, width), count = video.size, len(video)
    if found.size != (height, width):
        findings.error(path, f"masks are {found.size[1]}x{found.size[0]}, the video is {width}x{height}", fix)
    beyond = [name for name in found.frames if not (name.isdigit() and int(name) < count)]
    if beyond:
        findings.error(path, f"masks of frames {some_of(beyond)} lie beyond the {count} frames of the video", fix)
    if not any(rle is not None and area(rle) for row in found.masks for rle in row):
        findings.error(path, "no mask shows an object", fix)
