"""SA-V: val and test are 24 fps frames with masks at 6 fps, a folder of binary PNGs an object; train is mp4 with JSON files."""

from __future__ import annotations

from pathlib import Path

from vos_core.data.layout import VideoSet
from vos_core.data.listing import Findings, choose_split, files, first_folder, listed_clip, read_lines, some_of, subfolders
from vos_core.data.sav_train import KINDS, check_masklets, find_videos, train_clips
from vos_core.errors import LayoutError
from vos_core.types import Clip

SPLITS = ("val", "test", *KINDS)
COUNTS = {"val": 155, "test": 150}
STEP = 4
"""Annotated frames are every fourth of the 24 fps ones."""


def detect(root: Path) -> bool:
    """Return whether `root`, or a split below it, has 24 fps frames or training videos with masklets."""
    frames = any((base / "JPEGImages_24fps").is_dir() for base in (root, *(root / f"sav_{split}" for split in COUNTS)))
    return frames or find_videos(root) is not None


def open_set(root: Path, split: str | None = None) -> VideoSet:
    """Return an SA-V split (default `val`).

    Args:
        root: holds `sav_val`, `sav_test`, `sav_train`, or is one of them.
        split: one of `SPLITS`; `train` has the manual masklets of the training videos, `train_auto` the automatic ones.

    Raises:
        UsageError: another split.
        LayoutError: the frames or videos are absent.
    """
    split = choose_split(split, SPLITS, layout="sav", default="val")
    findings = Findings()
    if split in KINDS:
        trained = tuple(train_clips(root, split, findings))
        return VideoSet(f"sav-{split}", "sav", root, split, trained, problems=tuple(findings.problems))
    places = [root / f"sav_{split}" / "JPEGImages_24fps", root / split / "JPEGImages_24fps", root / "JPEGImages_24fps"]
    base = first_folder(places, root=root, what=f"24 fps frames of split {split}").parent
    clips = []
    for name in _names(base, split, findings):
        clip = listed_clip(
            name, base / "JPEGImages_24fps" / name, None, findings, annotated="none", mask_kind="objects", void=None
        )
        if clip is not None:
            clips.append(_annotated(clip, base / "Annotations_6fps" / name, findings))
    findings.count(base, found=len(clips), official=COUNTS[split])
    return VideoSet(f"sav-{split}", "sav", root, split, tuple(clips), problems=tuple(findings.problems))


def check_clip(clip: Clip, root: Path, findings: Findings) -> None:
    """Note faults of a training video and its masklets; `root` is not needed."""
    check_masklets(clip, findings)


def object_folders(clip: Clip) -> tuple[Path, ...]:
    """Return the object folders of a clip's masks, sorted; empty without masks."""
    folder = next(iter(clip.annotations.values()), None)
    return () if folder is None else tuple(folder / name for name in subfolders(folder) if name.isdigit())


def _names(base: Path, split: str, findings: Findings) -> list[str]:
    path = next((p for p in (base / f"sav_{split}.txt", base.parent / f"sav_{split}.txt") if p.is_file()), None)
    if path is None:
        findings.error(base / f"sav_{split}.txt", "the list of videos is missing", "Copy it from the data set")
        return list(subfolders(base / "JPEGImages_24fps"))
    try:
        return read_lines(path)
    except LayoutError as error:
        findings.error(path, error.found, error.fix)
        return []


def _annotated(clip: Clip, folder: Path, findings: Findings) -> Clip:
    """Return the clip with every frame name that some object folder has a mask for."""
    objects = [folder / name for name in subfolders(folder) if name.isdigit()]
    if not objects:
        state = "holds no object folder" if folder.is_dir() else "does not exist"
        findings.error(folder, f"mask folder of clip '{clip.name}' {state}", "Copy the clip's masks from the data set again")
    stems = {path.stem for path in clip.frames}
    named: set[str] = set()
    for place in objects:
        found = {path.stem for path in files(place, (".png",))}
        if not found:
            findings.error(place, "object folder has no mask", "Copy it from the data set again")
        if found - stems:
            findings.error(place, f"masks {some_of(sorted(found - stems))} belong to no frame", "Copy frames and masks again")
        named |= found & stems
    return Clip(clip.name, frames=clip.frames, annotations=dict.fromkeys(sorted(named), folder), mask_kind="objects", void=None)
