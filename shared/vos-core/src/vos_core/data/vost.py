"""VOST: objects under transformation; masks at 5 fps with 255 = ignore, inference on 10 fps frames."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vos_core.data.layout import VideoSet
from vos_core.data.listing import (
    Findings,
    choose_split,
    files,
    first_folder,
    listed_clip,
    note_unscored,
    read_lines,
    some_of,
    subfolders,
)
from vos_core.errors import LayoutError, UsageError
from vos_core.types import Clip

SPLITS = ("train", "val", "test")


def detect(root: Path) -> bool:
    """Return whether `root` has 10 fps frames, or VOST's flat lists and frame names."""
    if (root / "JPEGImages_10fps").is_dir():
        return True
    if not any((root / "ImageSets" / f"{split}.txt").is_file() for split in SPLITS):
        return False
    first = next((root / "JPEGImages").glob("*/frame*.jpg"), None)
    return first is not None and (root / "Annotations").is_dir()


def open_set(root: Path, split: str | None = None, *, fps: Literal[5, 10] | None = None) -> VideoSet:
    """Return a VOST split (default `val`); frames are ordered by name as strings.

    Args:
        root: holds `JPEGImages`, `JPEGImages_10fps`, `Annotations`, `ImageSets`.
        split: one of `SPLITS`.
        fps: 10 for inference as published, 5 for the annotated frames; None takes 10 if it is there.

    Raises:
        UsageError: no such split or rate.
        LayoutError: the frames are absent.
    """
    split = choose_split(split, SPLITS, layout="vost", default="val")
    if fps not in (None, 5, 10):
        raise UsageError(f"VOST has no frames at {fps} fps", expected="5 or 10")
    findings = Findings()
    dense, sparse = root / "JPEGImages_10fps", root / "JPEGImages"
    if fps is None and not dense.is_dir():
        findings.warning(
            dense, "10 fps frames are missing: methods will see 5 fps, which changes their scores",
            "Download them, or choose fps=5 to say that this is meant",
        )  # fmt: skip
    frames = first_folder({5: [sparse], 10: [dense], None: [dense, sparse]}[fps], root=root, what="frames")
    clips = []
    for name in _names(root, split, frames, findings):
        masks = root / "Annotations" / name
        clip = listed_clip(
            name, frames / name, masks, findings, annotated="some" if split != "test" else "first", prompt_rule="first_frame"
        )
        if clip is None:
            continue
        first = clip.frames[0].stem
        if first not in clip.annotations and clip.annotations:
            findings.error(masks, f"mask {first}.png of the first frame is missing", "Copy it from the data set again")
        if split != "test" and sparse.is_dir():
            absent = [path.stem for path in files(sparse / name) if path.stem not in clip.annotations]
            if split == "train" and absent:
                findings.error(masks, f"masks of 5 fps frames {some_of(absent)} are missing", "Copy them from the data set again")
            elif first in clip.annotations:
                note_unscored(masks, absent, findings)
        clips.append(clip)
    return VideoSet(f"vost-{split}", "vost", root, split, tuple(clips), problems=tuple(findings.problems))


def submitted_names(root: Path, clip: Clip) -> tuple[str, ...]:
    """Return the 5 fps frame names of a clip, on which VOST is scored; all its frames where 5 fps frames are absent."""
    listed = [path.stem for path in files(root / "JPEGImages" / clip.name)]
    return tuple(listed or sorted(clip.annotations) or [path.stem for path in clip.frames])


def _names(root: Path, split: str, frames: Path, findings: Findings) -> list[str]:
    path = root / "ImageSets" / f"{split}.txt"
    try:
        return read_lines(path)
    except LayoutError as error:
        findings.error(path, error.found, "Copy ImageSets from the data set")
        return list(subfolders(frames))
