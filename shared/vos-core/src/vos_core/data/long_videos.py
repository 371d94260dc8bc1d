"""Long Videos: three single-object clips of thousands of frames with sparse masks, laid out as DAVIS."""

from __future__ import annotations

from pathlib import Path

from vos_core.data.layout import VideoSet
from vos_core.data.listing import Findings, choose_split, first_folder, listed_clip, read_lines, subfolders

NAMES = ("blueboy", "dressage", "rat")


def detect(root: Path) -> bool:
    """Return whether `root` holds one of the three clips."""
    return any((root / "JPEGImages" / sub / name).is_dir() for sub in ("480p", ".") for name in NAMES)


def open_set(root: Path, split: str | None = None) -> VideoSet:
    """Return the clips of Long Videos; `split` can only be `val`.

    Raises:
        UsageError: another split.
        LayoutError: the frames are absent.
    """
    choose_split(split, ("val",), layout="long-videos", default="val")
    findings = Findings()
    frames = first_folder([root / "JPEGImages" / "480p", root / "JPEGImages"], root=root, what="frames")
    masks = root / "Annotations" / frames.relative_to(root / "JPEGImages")
    lists = [root / "ImageSets" / "2017" / "val.txt", root / "ImageSets" / "val.txt"]
    listed = next((path for path in lists if path.is_file()), None)
    if listed is None:
        findings.error(lists[0], "the list of sequences is missing", "Copy ImageSets from the data set")
    names = subfolders(frames) if listed is None else read_lines(listed)
    clips = [
        listed_clip(
            name,
            frames / name,
            masks / name,
            findings,
            annotated="first",
            mask_kind="binary",
            prompt_rule="first_frame",
            void=None,
        )
        for name in names
    ]
    kept = tuple(clip for clip in clips if clip is not None)
    findings.count(frames, found=len(kept), official=len(NAMES))
    return VideoSet("long-videos-val", "long-videos", root, "val", kept, problems=tuple(findings.problems))
