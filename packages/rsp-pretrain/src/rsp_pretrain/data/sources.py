"""Which videos a training folder holds: Kinetics-400, a list file, or any folder of videos or of frame folders."""

from __future__ import annotations

import os
from pathlib import Path

from vos_core.data import kinetics
from vos_core.data.listing import VIDEO_SUFFIXES, read_lines
from vos_core.errors import LayoutError
from vos_core.io.images import IMAGE_SUFFIXES


def find_videos(root: Path) -> tuple[Path, ...]:
    """Return the video files and frame folders that `root` names, in a fixed order.

    Args:
        root: Kinetics-400 (its label list if there is one, else `train2` or `train` by class); a text file with one path a line,
            relative to its folder; or any folder, searched at every depth for video files and for folders of two or more images.

    Raises:
        LayoutError: there is none, or a list that cannot be read or of which nothing is there.
    """
    if root.is_file():
        found = tuple(root.parent / line for line in read_lines(root))
        if not found:
            raise LayoutError(f"list {root} names no video", expected="one path a line")
        return _there(found, root)
    if not root.is_dir():
        raise LayoutError(f"data folder {root} does not exist", fix="Check --data_path")
    if kinetics.detect(root):
        return _there(tuple(video.path for video in kinetics.list_videos(root)), root)
    found = tuple(_search(root))
    if not found:
        raise LayoutError(
            f"{root} holds no video",
            expected=f"files that end in {', '.join(VIDEO_SUFFIXES)}, or folders of frames",
            fix="Give the folder of the videos, or prepare Kinetics with: rsp-pretrain data",
        )
    return found


def _there(listed: tuple[Path, ...], source: Path) -> tuple[Path, ...]:
    """Return a list of which something exists; single gaps are met, and named, when they are read."""
    if not any(path.exists() for path in listed):
        raise LayoutError(
            f"none of the {len(listed)} videos that {source} lists is there (the first: {listed[0]})",
            expected="one path a line, relative to the list's folder" if source.is_file() else "the videos of its label list",
        )
    return listed


def _search(root: Path) -> list[Path]:
    found: list[Path] = []
    for place, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = [name for name in names if not name.startswith(".")]
        found += [Path(place, name) for name in sorted(shown) if Path(name).suffix.lower() in VIDEO_SUFFIXES]
        if sum(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in shown) >= 2:
            found.append(Path(place))
    return found
