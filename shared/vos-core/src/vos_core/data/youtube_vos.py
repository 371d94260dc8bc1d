"""YouTube-VOS 2018 and 2019: objects enter mid-clip, results are wanted on the frames that `meta.json` names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from vos_core.data.layout import VideoSet
from vos_core.data.listing import Findings, choose_split, files, first_folder, listed_clip, read_videos, some_of, subfolders
from vos_core.errors import LayoutError, UsageError
from vos_core.types import Clip

SPLITS = ("train", "train_480p", "valid", "test")
COUNTS = {
    (2018, "train"): 3471, (2018, "valid"): 474, (2018, "test"): 508,
    (2019, "train"): 3471, (2019, "valid"): 507, (2019, "test"): 541,
}  # fmt: skip
FrameChoice = Literal["auto", "all", "listed"]


def detect(root: Path) -> bool:
    """Return whether `root`, or a year below it, holds a split with YouTube-VOS's `meta.json`."""
    return any((base / split / "meta.json").is_file() for base in (root, root / "2018", root / "2019") for split in SPLITS) or (
        (root / "meta.json").is_file() and (root / "JPEGImages").is_dir()
    )


def open_set(root: Path, split: str | None = None, *, year: int | None = None, frames: FrameChoice = "auto") -> VideoSet:
    """Return a YouTube-VOS split (default `valid`).

    Args:
        root: holds `train`, `valid`, ..., or the years 2018 and 2019, or is the split itself.
        split: one of `SPLITS`.
        year: 2018 or 2019; needed if `root` holds both, and for the official counts.
        frames: `all` gives every frame between the first and last listed one, `listed` each fifth as annotated, `auto` all
            frames where they are there. Results are wanted on listed frames only.

    Raises:
        UsageError: no such split or choice, or `root` holds both years and `year` is None.
        LayoutError: the split is absent, or all frames are asked for and absent.
    """
    split = choose_split(split, SPLITS, layout="youtube-vos", default="valid")
    if year not in (None, 2018, 2019) or frames not in ("auto", "all", "listed"):
        raise UsageError(f"youtube-vos has no year {year} with frames '{frames}'", expected="2018 or 2019; auto, all or listed")
    if year is None and all((root / str(y) / split).is_dir() for y in (2018, 2019)):
        raise UsageError(
            f"{root} holds YouTube-VOS 2018 and 2019", expected="one of them", fix="Choose with year=2018 or year=2019"
        )
    years = (year,) if year else (2018, 2019)
    base = first_folder(
        [root / split, *(root / str(y) / split for y in years), *([root] if (root / "JPEGImages").is_dir() else [])],
        root=root, what=f"split {split}",
    )  # fmt: skip
    findings = Findings()
    training = split.startswith("train")
    dense = None if training or frames == "listed" else dense_folder(base, split)
    if dense is None and not training and frames != "listed":
        expected = base.parent / f"{split}_all_frames" / "JPEGImages"
        if frames == "all":
            raise LayoutError(f"{expected} does not exist", fix="Download the all-frames archive, or choose frames='listed'")
        findings.warning(
            expected, "all frames (30 fps) are missing: methods will see only each fifth frame, which changes their scores",
            "Download the all-frames archive, or say that this is meant: frames='listed' (--layout youtube-vos:frames=listed)",
        )  # fmt: skip
    videos = _videos(base, findings)
    clips, births = [], {}
    for name in videos or subfolders(base / "JPEGImages"):
        listed = listed_clip(name, base / "JPEGImages" / name, base / "Annotations" / name, findings, annotated="some")
        if listed is None:
            continue
        entry = videos.get(name)
        clip, births[name] = (listed, {}) if entry is None else _with_meta(listed, entry, base, findings, training=training)
        clips.append(clip if dense is None else _densified(clip, dense / name, findings))
    for name in sorted(set(subfolders(base / "JPEGImages")) - set(videos)) if videos else ():
        findings.error(base / "JPEGImages" / name, "the video is not in meta.json", "Use the meta.json of this release and split")
    findings.count(base, found=len(clips), official=COUNTS.get((year or 0, split.removesuffix("_480p"))))
    return VideoSet(
        f"youtube-vos-{year or ''}-{split}".replace("--", "-"), "youtube-vos", root, split, tuple(clips),
        score_rule="after_birth", births={name: table for name, table in births.items() if table},
        problems=tuple(findings.problems),
    )  # fmt: skip


def dense_folder(base: Path, split: str) -> Path | None:
    """Return the folder of all frames that belongs to a split's folder, or None."""
    beside = base.parent
    for folder in (beside / f"{split}_all_frames", beside / "all_frames" / f"{split}_all_frames", beside / "all_frames" / split):
        if (folder / "JPEGImages").is_dir():
            return folder / "JPEGImages"
    return None


def _videos(base: Path, findings: Findings) -> dict[str, dict[str, Any]]:
    if (base / "meta.json").is_file():
        return read_videos(base / "meta.json", findings)
    findings.error(base / "meta.json", "the list of videos, objects and frames is missing", "Copy it from the data set")
    return {}


def _with_meta(
    clip: Clip, entry: dict[str, Any], base: Path, findings: Findings, *, training: bool
) -> tuple[Clip, dict[int, str]]:
    """Return the clip with ids and outputs of its meta entry, and object id -> frame of its first mask."""
    objects = entry.get("objects")
    if not isinstance(objects, dict) or not objects:
        findings.error(base / "meta.json", f"video {clip.name} lists no object", "Copy meta.json from the data set")
        return clip, {}
    stems, births = {path.stem for path in clip.frames}, {}
    wanted: set[str] = set()
    for key, value in objects.items():
        named = [str(frame) for frame in value.get("frames", ())] if isinstance(value, dict) else []
        if not str(key).isdigit() or not named:
            findings.error(
                base / "meta.json", f"object '{key}' of video {clip.name} has no frames or is no number", "Copy meta.json again"
            )
            continue
        births[int(key)] = named[0]
        wanted.update(named)
        needed = named if training else named[:1]
        absent = [frame for frame in needed if frame not in clip.annotations]
        if absent:
            folder = base / "Annotations" / clip.name
            findings.error(folder, f"masks {some_of(absent)} of object {key} are missing", "Copy them from the data set again")
    gone = sorted(wanted - stems)
    if gone:
        folder = base / "JPEGImages" / clip.name
        findings.error(folder, f"frames {some_of(gone)} of meta.json are missing", "Copy them from the data set again")
    outputs = None if training else frozenset(wanted)
    return replace(clip, object_ids=tuple(sorted(births)), outputs=outputs), births


def _densified(clip: Clip, folder: Path, findings: Findings) -> Clip:
    listed = sorted(clip.outputs or {path.stem for path in clip.frames})
    dense = [path for path in files(folder) if listed[0] <= path.stem <= listed[-1]]
    absent = sorted(set(listed) - {path.stem for path in dense})
    if absent:
        findings.error(
            folder, f"frames {some_of(absent)} are missing among all frames", "Copy them from the all-frames archive again"
        )
        return clip
    return replace(clip, frames=tuple(dense))
