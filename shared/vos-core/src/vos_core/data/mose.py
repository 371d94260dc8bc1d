"""MOSE v1 and v2: crowded scenes with objects that disappear and return; valid shows masks in the first frame only."""

from __future__ import annotations

from pathlib import Path

from vos_core.data.layout import VideoSet
from vos_core.data.listing import Findings, choose_split, first_folder, int_ids, listed_clip, read_videos, subfolders
from vos_core.errors import UsageError

SPLITS = ("train", "valid")
COUNTS = {(1, "train"): 1507, (1, "valid"): 311}  # v2's 5,024 videos are released without a count for each split


def detect(root: Path) -> bool:
    """Return whether `root` holds `train` or `valid` with frames and masks side by side."""
    return any((root / split / "JPEGImages").is_dir() and (root / split / "Annotations").is_dir() for split in SPLITS)


def open_set(root: Path, split: str | None = None, *, version: int = 1) -> VideoSet:
    """Return a MOSE split (default `valid`).

    Args:
        root: holds `train` and `valid`, or is the split itself.
        split: one of `SPLITS`.
        version: 1 or 2.

    Raises:
        UsageError: no such split or version.
        LayoutError: the split is absent.
    """
    split = choose_split(split, SPLITS, layout="mose", default="valid")
    if version not in (1, 2):
        raise UsageError(f"MOSE has no version {version}", expected="1 or 2")
    base = first_folder([root / split / "JPEGImages", root / "JPEGImages"], root=root, what=f"frames of split {split}").parent
    findings = Findings()
    meta = next((path for path in (base / f"meta_{split}.json", base.parent / f"meta_{split}.json") if path.is_file()), None)
    videos = {} if meta is None else read_videos(meta, findings)
    names = subfolders(base / "JPEGImages")
    for name in sorted(set(videos) - set(names)):
        findings.error(base / "JPEGImages" / name, f"the video is in {meta} but not on disk", "Copy it from the data set")
    for name in sorted(set(subfolders(base / "Annotations")) - set(names) - set(videos)):
        findings.error(base / "Annotations" / name, "masks without frames", "Copy the video's frames from the data set")
    clips = [
        listed_clip(
            name, base / "JPEGImages" / name, base / "Annotations" / name, findings,
            annotated="all" if split == "train" else "first", prompt_rule="first_seen" if split == "train" else "first_frame",
            object_ids=int_ids(videos.get(name, {}).get("objects")),
        )
        for name in names
    ]  # fmt: skip
    kept = tuple(clip for clip in clips if clip is not None)
    findings.count(base, found=len(kept), official=COUNTS.get((version, split)))
    return VideoSet(f"mose-v{version}-{split}", "mose", root, split, kept, problems=tuple(findings.problems))
