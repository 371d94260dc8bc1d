"""CO3D: `<category>/<object>/{images,masks}`; depth and other folders are left alone."""

from __future__ import annotations

from pathlib import Path

from vos_core.data.layout import VideoSet
from vos_core.data.listing import Findings, listed_clip, subfolders
from vos_core.errors import LayoutError


def detect(root: Path) -> bool:
    """Return whether `root` holds `<category>/<object>/images` with `masks` beside."""
    return any(_is_object(root / category / name) for category in subfolders(root) for name in subfolders(root / category))


def open_set(root: Path, split: str | None = None) -> VideoSet:
    """Return the clips `<category>/<object>`, categories and objects sorted.

    Args:
        root: holds the categories.
        split: a category, or None for all.

    Raises:
        LayoutError: there is no such category, or no object folder.
    """
    categories = subfolders(root) if split is None else (split,)
    if split is not None and not (root / split).is_dir():
        raise LayoutError(f"{root} has no category '{split}'", expected=f"one of: {', '.join(subfolders(root))}")
    folders = [root / category / name for category in categories for name in subfolders(root / category)]
    folders = [folder for folder in folders if (folder / "images").is_dir() or (folder / "masks").is_dir()]
    if not folders:
        raise LayoutError(f"{root} holds no object folder", expected="<category>/<object>/images and masks")
    findings = Findings()
    clips = [
        listed_clip(
            f"{f.parent.name}/{f.name}", f / "images", f / "masks", findings, annotated="all", mask_kind="binary", void=None
        )
        for f in folders
    ]
    kept = tuple(clip for clip in clips if clip is not None)
    return VideoSet("co3d", "co3d", root, split, kept, score_rule="all", problems=tuple(findings.problems))


def _is_object(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "masks").is_dir()
