"""VIP: clips with body part labels 0-19 on the annotated frames, for part propagation."""

from __future__ import annotations

from pathlib import Path

from vos_core.data.layout import VideoSet
from vos_core.data.listing import Findings, choose_split, first_folder, listed_clip, read_lines, subfolders
from vos_core.errors import LayoutError

CLASSES = (
    "background", "hat", "hair", "sun-glasses", "upper-clothes", "dress", "coat", "socks", "pants", "gloves", "scarf", "skirt",
    "torso-skin", "face", "right-arm", "left-arm", "right-leg", "left-leg", "right-shoe", "left-shoe",
)  # fmt: skip
COUNT = 50
"""Clips in the val list."""


def detect(root: Path) -> bool:
    """Return whether `root` has `Annotations/Category_ids`."""
    return (root / "Annotations" / "Category_ids").is_dir() and (root / "Images").is_dir()


def open_set(root: Path, split: str | None = None) -> VideoSet:
    """Return the clips of `lists/<split>_videos.txt` (default `val`), frames in number order, masks holding class ids.

    Raises:
        UsageError: another split.
        LayoutError: the frames are absent.
    """
    split = choose_split(split, ("train", "val"), layout="vip", default="val")
    images = first_folder([root / "Images"], root=root, what="frames")
    findings = Findings()
    path = root / "lists" / f"{split}_videos.txt"
    try:
        names = read_lines(path)
    except LayoutError as error:
        findings.error(path, error.found, "Copy lists from the data set")
        names = list(subfolders(images))
    clips = [
        listed_clip(
            name, images / name, root / "Annotations" / "Category_ids" / name, findings,
            annotated="all", order="number", prompt_rule="first_frame", void=None,
        )
        for name in names
    ]  # fmt: skip
    kept = tuple(clip for clip in clips if clip is not None)
    findings.count(images, found=len(kept), official=COUNT if split == "val" else None)
    return VideoSet(f"vip-{split}", "vip", root, split, kept, score_rule="all", problems=tuple(findings.problems))
