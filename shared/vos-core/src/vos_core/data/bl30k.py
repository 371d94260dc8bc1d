"""BL30K: 768x512 synthetic clips for training, every frame annotated with dense ids; six parts merged into one folder."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from vos_core.data.layout import VideoSet
from vos_core.data.listing import Findings, choose_split, first_folder, listed_clip, subfolders
from vos_core.types import Clip

SIZE = (512, 768)
"""Height and width of every frame in pixels."""


def detect(root: Path) -> bool:
    """Return whether `root` is, or holds, a folder BL30K with frames and masks."""
    bases = [root / "BL30K", *([root] if root.resolve().name == "BL30K" else [])]
    return any((base / "JPEGImages").is_dir() and (base / "Annotations").is_dir() for base in bases)


def open_set(root: Path, split: str | None = None) -> VideoSet:
    """Return all clips; `split` can only be `train`.

    Raises:
        UsageError: another split.
        LayoutError: the frames are absent.
    """
    choose_split(split, ("train",), layout="bl30k", default="train")
    base = first_folder([root / "BL30K" / "JPEGImages", root / "JPEGImages"], root=root, what="frames").parent
    findings = Findings()
    clips = [
        listed_clip(name, base / "JPEGImages" / name, base / "Annotations" / name, findings, annotated="all")
        for name in subfolders(base / "JPEGImages")
    ]
    kept = tuple(clip for clip in clips if clip is not None)
    if not kept:
        findings.error(base / "JPEGImages", "there is no clip", "Merge the six parts into this folder")
    return VideoSet("bl30k-train", "bl30k", root, "train", kept, problems=tuple(findings.problems))


def check_clip(clip: Clip, root: Path, findings: Findings) -> None:
    """Note frames that are not 768x512, by the first one."""
    with Image.open(clip.frames[0]) as image:
        if image.size != SIZE[::-1]:
            width, height = image.size
            found = f"frame is {width}x{height}, BL30K has {SIZE[1]}x{SIZE[0]}"
            findings.error(clip.frames[0], found, "Copy the clip from the data set again")
