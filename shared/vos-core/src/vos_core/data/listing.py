"""Folders to clips: how every layout lists frames and masks, matches them by stem and notes what is missing."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vos_core.data.layout import Problem
from vos_core.errors import LayoutError, UsageError
from vos_core.io.images import IMAGE_SUFFIXES, natural_key
from vos_core.types import Clip, MaskKind, PromptRule

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
Annotated = Literal["all", "scored", "first", "some", "none"]
"""Which frames of a clip need a mask; `scored`: the first one to run a method, the others to score it."""
_MANY = 5


@dataclass
class Findings:
    """Problems met while a data set is listed."""

    problems: list[Problem] = field(default_factory=list)

    def error(self, path: Path, found: str, fix: str) -> None:
        """Note a fault that makes results wrong or impossible."""
        self.problems.append(Problem(path, found, fix))

    def note(self, path: Path, found: str, fix: str) -> None:
        """Note something unusual but usable."""
        self.problems.append(Problem(path, found, fix, "note"))

    def warning(self, path: Path, found: str, fix: str) -> None:
        """Note something usable that changes scores; opening the set says so."""
        self.problems.append(Problem(path, found, fix, "warning"))

    def count(self, path: Path, *, found: int, official: int | None) -> None:
        """Note a number of clips that is not the official one."""
        if official is not None and found != official:
            self.note(path, f"{found} clips, the released split has {official}", "Download the rest, or ignore this for a subset")


def subfolders(folder: Path) -> tuple[str, ...]:
    """Return the names of the visible folders in `folder`, sorted; empty if it does not exist."""
    if not folder.is_dir():
        return ()
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))


def files(
    folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES, *, order: Literal["string", "number"] = "string"
) -> list[Path]:
    """Return the visible files of `folder` with one of `suffixes` (any case), by stem as a string or by number."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")]
    if order == "number":
        return sorted(found, key=lambda path: (natural_key(path.stem), path.name))
    return sorted(found, key=lambda path: (path.stem, path.name))


def masks_in(folder: Path) -> dict[str, Path]:
    """Return stem -> mask file of a folder; a PNG wins over another file of the same stem."""
    found = files(folder)
    return {path.stem: path for path in sorted(found, key=lambda path: path.suffix.lower() == ".png")}


def read_lines(path: Path) -> list[str]:
    """Return the non-empty lines of a list file, stripped; raises `LayoutError`."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise LayoutError(f"list {path} cannot be read ({error})", fix="Copy the file from the data set again") from error


def read_meta(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`; raises `LayoutError`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LayoutError(f"{path} cannot be read ({error})", fix="Copy the file from the data set again") from error
    if not isinstance(value, dict):
        raise LayoutError(f"{path} holds a {type(value).__name__}", expected="a JSON object")
    return value


def read_videos(path: Path, findings: Findings) -> dict[str, dict[str, Any]]:
    """Return video name -> entry of a `{"videos": ...}` file; a damaged file is a finding and gives nothing."""
    try:
        videos = read_meta(path).get("videos")
    except LayoutError as error:
        findings.error(path, error.found, error.fix or "Copy the file from the data set again")
        return {}
    if not isinstance(videos, dict):
        findings.error(path, 'it has no object "videos"', "Copy the file from the data set again")
        return {}
    return {str(name): entry for name, entry in videos.items() if isinstance(entry, dict)}


def int_ids(objects: Any) -> tuple[int, ...] | None:
    """Return the integer keys of a JSON object in ascending order, or None if it has none."""
    if not isinstance(objects, dict):
        return None
    return tuple(sorted(int(key) for key in objects if str(key).isdigit())) or None


def choose_split(split: str | None, splits: Sequence[str], *, layout: str, default: str) -> str:
    """Return `split` or the default; raises `UsageError` for a name the layout does not have."""
    if split is None:
        return default
    if split not in splits:
        raise UsageError(f"{layout} has no split '{split}'", expected=f"one of: {', '.join(splits)}")
    return split


def first_folder(candidates: Iterable[Path], *, root: Path, what: str) -> Path:
    """Return the first candidate that is a folder; raises `LayoutError` that lists where it was looked for."""
    tried = list(candidates)
    for path in tried:
        if path.is_dir():
            return path
    looked = ", ".join(str(path) for path in tried)
    raise LayoutError(
        f"{root} has no {what} (looked for {looked})", fix="Give the folder that holds it, or name the right layout"
    )


def listed_clip(
    name: str,
    frames: Path,
    masks: Path | None,
    findings: Findings,
    *,
    annotated: Annotated,
    order: Literal["string", "number"] = "string",
    mask_kind: MaskKind = "labels",
    prompt_rule: PromptRule = "first_seen",
    outputs: frozenset[str] | None = None,
    object_ids: tuple[int, ...] | None = None,
    void: int | None = 255,
    binary_output: bool = False,
) -> Clip | None:
    """Return a clip of two folders with masks matched by stem, or None (and a finding) if there are no frames.

    Args:
        name: clip name.
        frames: folder of images.
        masks: folder of masks; None if the clip has none.
        findings: receives what is missing.
        annotated: which frames need a mask.
        order: frame order, by stem as a string or by number.
        mask_kind: see `Clip`; so for the other arguments.
        prompt_rule: see `Clip`.
        outputs: see `Clip`.
        object_ids: see `Clip`.
        void: see `Clip`.
        binary_output: see `Clip`.
    """
    images = one_per_stem(files(frames, order=order), findings)
    if not images:
        state = "has no image" if frames.is_dir() else "does not exist"
        findings.error(frames, f"frame folder of clip '{name}' {state}", "Copy the clip's frames from the data set again")
        return None
    found = masks_in(masks) if masks is not None else {}
    _match(name, [path.stem for path in images], found, masks, findings, annotated=annotated)
    stems = {path.stem for path in images}
    return Clip(
        name=name, frames=tuple(images), annotations={stem: path for stem, path in sorted(found.items()) if stem in stems},
        mask_kind=mask_kind, prompt_rule=prompt_rule, outputs=outputs, object_ids=object_ids, void=void,
        binary_output=binary_output,
    )  # fmt: skip


def note_unscored(masks: Path, absent: Sequence[str], findings: Findings) -> None:
    """Note frames whose masks are needed for scores alone, if any."""
    if absent:
        found = f"masks of frames {some_of(absent)} are missing: methods run without them, scores need them"
        findings.problems.append(Problem(masks, found, "Copy them from the data set to score results here", scores_only=True))


def one_per_stem(images: list[Path], findings: Findings) -> list[Path]:
    """Return the images without those whose stem another already has, noting each."""
    kept: dict[str, Path] = {}
    for path in images:
        if path.stem in kept:
            findings.error(path, f"two frames are called '{path.stem}': {kept[path.stem].name} as well", "Keep one of them")
        kept.setdefault(path.stem, path)
    return list(kept.values())


def some_of(names: Sequence[str]) -> str:
    """Return the first few names for a message."""
    return ", ".join(names[:_MANY]) + (f", ... ({len(names)} in all)" if len(names) > _MANY else "")


def _match(
    name: str, stems: list[str], found: dict[str, Path], masks: Path | None, findings: Findings, *, annotated: Annotated
) -> None:
    if masks is None or annotated == "none":
        return
    if not found:
        state = "has no mask" if masks.is_dir() else "does not exist"
        findings.error(masks, f"mask folder of clip '{name}' {state}", "Copy the clip's masks from the data set again")
        return
    needed = {"all": stems, "scored": stems[:1], "first": stems[:1], "some": []}[annotated]
    absent = [stem for stem in needed if stem not in found]
    if absent:
        findings.error(masks, f"masks of frames {some_of(absent)} are missing", "Copy them from the data set again")
    elif annotated == "scored":
        note_unscored(masks, [stem for stem in stems if stem not in found], findings)
    strangers = sorted(found.keys() - set(stems))
    if strangers:
        findings.error(
            masks, f"masks {some_of(strangers)} belong to no frame of clip '{name}'", "Give mask and frame the same stem"
        )
