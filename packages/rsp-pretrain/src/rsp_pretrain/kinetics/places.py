"""Where the parts of Kinetics-400 lie below one folder, and which class each video belongs to."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from vos_core.data.listing import VIDEO_SUFFIXES, files, subfolders
from vos_core.errors import LayoutError

REPLACEMENTS = "replacement_for_corrupted_k400"
"""Archive, and folder beside the 400 classes, of videos that replace damaged ones."""
CLASSES = 401
"""Class folders of a complete copy, the one of replacements included."""


@dataclass(frozen=True, slots=True)
class Places:
    """Folders and files below `root`."""

    root: Path

    @property
    def archives(self) -> Path:
        """Folder of the downloaded archives."""
        return self.root / "k400_targz" / "train"

    @property
    def archive_list(self) -> Path:
        """Text file of the archives' addresses."""
        return self.root / "k400_targz" / "k400_train_path.txt"

    @property
    def replacements(self) -> Path:
        """Archive of the videos that replace damaged ones."""
        return self.root / "k400_targz" / f"{REPLACEMENTS}.tgz"

    @property
    def annotations(self) -> Path:
        """Table of class, id and seconds of every video."""
        return self.root / "annotations" / "train.csv"

    @property
    def extracted(self) -> Path:
        """Folder of the archives' videos, one folder per archive, not by class."""
        return self.root / "extracted"

    @property
    def labels(self) -> Path:
        """Folder of the label list."""
        return self.root / "labels"

    def videos(self, folder: str) -> dict[str, list[Path]]:
        """Return class -> video files of `train` or `train2`, both in name order."""
        base = self.root / folder
        return {name: files(base / name, VIDEO_SUFFIXES) for name in subfolders(base)}


def class_folder(label: str) -> str:
    """Return the folder name of a class: its label with underscores.

    >>> class_folder("passing American football (in game)")
    'passing_American_football_(in_game)'
    """
    return label.strip().replace(" ", "_").replace("/", "_")


def read_annotations(path: Path) -> dict[str, str]:
    """Return video stem (`<youtube id>_<start>_<end>`, seconds with six digits) -> class folder.

    Raises:
        LayoutError: the table is absent or has other columns.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {
                f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}": class_folder(row["label"])
                for row in csv.DictReader(file)
            }
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise LayoutError(
            f"table {path} cannot be read ({error})",
            expected="columns label, youtube_id, time_start, time_end",
            fix="Run: rsp-pretrain data download",
        ) from error
