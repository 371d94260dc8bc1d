"""iThor-like sets: one folder an object with `imgs` and `masks` of the same stems, masks grey 0/255."""

from __future__ import annotations

from pathlib import Path

from vos_core.data.layout import VideoSet
from vos_core.data.listing import Findings, listed_clip, subfolders
from vos_core.errors import LayoutError, UsageError


def detect(root: Path) -> bool:
    """Return whether `root` is, or holds, an object folder with `imgs` and `masks`."""
    return _is_object(root) or any(_is_object(root / name) for name in subfolders(root))


def open_set(root: Path, split: str | None = None) -> VideoSet:
    """Return one clip for every object folder below `root` (or for `root` itself); there are no splits.

    Raises:
        UsageError: a split is named.
        LayoutError: there is no object folder.
    """
    if split is not None:
        raise UsageError(f"ithor has no split '{split}'", expected="none")
    folders = [root] if _is_object(root) else [root / name for name in subfolders(root)]
    if not folders:
        raise LayoutError(f"{root} holds no object folder", expected="<object>/imgs and <object>/masks")
    findings = Findings()
    clips = [
        listed_clip(f.resolve().name, f / "imgs", f / "masks", findings, annotated="all", mask_kind="binary", void=None)
        for f in folders
    ]
    kept = tuple(clip for clip in clips if clip is not None)
    return VideoSet("ithor", "ithor", root, None, kept, score_rule="all", problems=tuple(findings.problems))


def _is_object(folder: Path) -> bool:
    return (folder / "imgs").is_dir() and (folder / "masks").is_dir()
