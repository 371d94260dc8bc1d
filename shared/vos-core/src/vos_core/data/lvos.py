"""LVOS v1 and v2: minutes-long clips, each object scored over its own range of frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vos_core.data.layout import VideoSet
from vos_core.data.listing import Findings, choose_split, first_folder, int_ids, listed_clip, read_videos, some_of, subfolders
from vos_core.errors import UsageError
from vos_core.types import Clip

SPLITS = ("train", "valid", "test")
COUNTS = {
    (1, "train"): 120, (1, "valid"): 50, (1, "test"): 50, (2, "train"): 420, (2, "valid"): 140, (2, "test"): 160,
}  # fmt: skip
STEP = 5
"""Distance of annotated frame numbers."""
_FOLDERS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}


def detect(root: Path) -> bool:
    """Return whether a split of `root` has 8-digit frame names or LVOS's meta file."""
    for split, folders in _FOLDERS.items():
        for folder in folders:
            base = root / folder
            if (base / f"{split}_meta.json").is_file() or (root / f"{split}_meta.json").is_file():
                return True
            frames = next((base / "JPEGImages").glob("*/*.jpg"), None) if (base / "JPEGImages").is_dir() else None
            if frames is not None and len(frames.stem) == 8 and frames.stem.isdigit():
                return True
    return False


def open_set(root: Path, split: str | None = None, *, version: int = 1, annotations: str = "Annotations") -> VideoSet:
    """Return an LVOS split (default `valid`).

    Args:
        root: holds `train`, `valid` (or `val`) and `test`, or is the split itself.
        split: one of `SPLITS`.
        version: 1 or 2.
        annotations: mask folder; `Annotations_convert` holds first masks only. With all masks a method is still shown each
            id only where it first appears.

    Raises:
        UsageError: no such split or version.
        LayoutError: the split is absent.
    """
    split = choose_split(None if split is None else {"val": "valid"}.get(split, split), SPLITS, layout="lvos", default="valid")
    if version not in (1, 2):
        raise UsageError(f"LVOS has no version {version}", expected="1 or 2")
    folders = _FOLDERS[split]
    places = [root / f / "JPEGImages" for f in folders] + [root / f / f / "JPEGImages" for f in folders] + [root / "JPEGImages"]
    base = first_folder(places, root=root, what=f"frames of split {split}").parent
    findings = Findings()
    metas = [place / f"{name}_meta.json" for place in (base, base.parent, root) for name in folders]
    meta = next((path for path in metas if path.is_file()), None)
    if meta is None:
        findings.error(metas[0], "the list of objects and their frame ranges is missing", "Copy it from the data set")
    videos = {} if meta is None else read_videos(meta, findings)
    names = subfolders(base / "JPEGImages")
    for name in sorted(set(videos) - set(names)):
        findings.error(base / "JPEGImages" / name, f"the video is in {meta} but not on disk", "Copy it from the data set")
    partial = split == "test" or annotations != "Annotations"
    clips: list[Clip] = []
    births: dict[str, dict[int, str]] = {}
    ranges: dict[str, dict[int, tuple[str, ...]]] = {}
    for name in names:
        objects = videos.get(name, {}).get("objects")
        if videos and name not in videos:
            findings.error(
                base / "JPEGImages" / name, f"the video is not in {meta}", "Use the meta file of this release and split"
            )
        clip = listed_clip(
            name, base / "JPEGImages" / name, base / annotations / name, findings,
            annotated="first" if partial else "scored" if split == "valid" else "all", object_ids=int_ids(objects),
        )  # fmt: skip
        if clip is None:
            continue
        clips.append(clip)
        if meta is not None and isinstance(objects, dict):
            births[name], ranges[name] = _ranges(clip, objects, meta, findings)
    findings.count(base, found=len(clips), official=COUNTS.get((version, split)))
    return VideoSet(
        f"lvos-v{version}-{split}", "lvos", root, split, tuple(clips), scored_by_object={n: r for n, r in ranges.items() if r},
        births={n: b for n, b in births.items() if b}, problems=tuple(findings.problems),
    )  # fmt: skip


def scored_frames(*, start: int, end: int, frame_nums: int) -> tuple[str, ...]:
    """Return the frame names that the LVOS tool scores: every fifth number below `end`, first and last left out.

    >>> scored_frames(start=1, end=21, frame_nums=5)
    ('00000006', '00000011', '00000016')
    """
    numbers = range(start, end, STEP)
    return tuple(f"{number:08d}" for k, number in enumerate(numbers) if k not in (0, frame_nums - 1))


def _ranges(
    clip: Clip, objects: dict[str, Any], meta: Path, findings: Findings
) -> tuple[dict[int, str], dict[int, tuple[str, ...]]]:
    births, scored = {}, {}
    stems = {path.stem for path in clip.frames}
    for key, value in objects.items():
        try:
            limits = {name: int(value["frame_range"][name]) for name in ("start", "end", "frame_nums")}
            object_id = int(key)
        except (KeyError, TypeError, ValueError):
            findings.error(
                meta, f"object '{key}' of video {clip.name} has no frame_range", "Copy the file from the data set again"
            )
            continue
        births[object_id] = f"{limits['start']:08d}"
        scored[object_id] = scored_frames(**limits)
        absent = sorted({births[object_id], *scored[object_id]} - stems)
        if absent:
            findings.error(clip.frames[0].parent, f"frames {some_of(absent)} of object {key} are missing", "Copy them again")
    return births, scored
