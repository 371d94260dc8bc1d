"""Kinetics-400: video files by class, and the pickled list of those that can be read."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from vos_core.data.layout import VideoSet
from vos_core.data.listing import VIDEO_SUFFIXES, Findings, choose_split, files, first_folder, subfolders
from vos_core.errors import LayoutError
from vos_core.types import Clip

FOLDERS = ("train2", "train")
"""`train2` holds videos with a short side of 256, `train` the raw ones."""
LABEL_FILES = ("label_full_1.0.pickle", "label_1.0.pickle")


@dataclass(frozen=True, slots=True)
class LabelledVideo:
    """One video file with its class index and folder."""

    path: Path
    class_index: int
    class_name: str


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, tuples, strings and numbers; a file that asks for anything else is refused, so no code can run."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it needs {module}.{name}")


def detect(root: Path) -> bool:
    """Return whether `root` has the list file or folders of videos by class."""
    if any((root / "labels" / name).is_file() for name in LABEL_FILES):
        return True
    return any(next((root / folder).glob("*/*.mp4"), None) is not None for folder in FOLDERS)


def list_videos(root: Path) -> tuple[LabelledVideo, ...]:
    """Return the videos of the list file in its order, or without one every video by class in name order.

    Raises:
        LayoutError: there is neither, or the list file is damaged.
    """
    listed = next((root / "labels" / name for name in LABEL_FILES if (root / "labels" / name).is_file()), None)
    if listed is not None:
        return tuple(LabelledVideo(_resolved(root, path), index, Path(path).parent.name) for index, path in _read_labels(listed))
    base = first_folder([root / folder for folder in FOLDERS], root=root, what="videos")
    return tuple(
        LabelledVideo(path, index, name)
        for index, name in enumerate(subfolders(base))
        for path in files(base / name, VIDEO_SUFFIXES)
    )


def open_set(root: Path, split: str | None = None) -> VideoSet:
    """Return every video as a clip `<class>/<stem>` without masks; `split` can only be `train`. Raises as `list_videos`."""
    choose_split(split, ("train",), layout="kinetics", default="train")
    findings = Findings()
    videos = list_videos(root)
    if not videos:
        findings.error(root, "there is no video", "Download and arrange the videos by class")
    clips = tuple(Clip(f"{video.class_name}/{video.path.stem}", video=video.path) for video in videos)
    return VideoSet("kinetics-train", "kinetics", root, "train", clips, problems=tuple(findings.problems))


def _resolved(root: Path, path: str) -> Path:
    if Path(path).is_absolute() or Path(path).parts[0] in FOLDERS:
        return root / path
    return next((root / folder / path for folder in FOLDERS if (root / folder).is_dir()), root / path)


def _read_labels(path: Path) -> list[tuple[int, str]]:
    try:
        with path.open("rb") as stream:
            entries: Any = _PlainUnpickler(stream).load()
        return [(int(index), str(name)) for index, name in entries]
    except (OSError, pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise LayoutError(
            f"label list {path} cannot be read ({error})", expected="a pickled list of (class index, path)", fix="Make it again"
        ) from error
