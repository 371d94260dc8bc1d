"""The benchmarks by the paths that the original's scripts take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vos_core.errors import LayoutError, UsageError

if TYPE_CHECKING:
    from vos_core.types import Clip

DATASETS = ("davis", "davis16", "davis-c", "youtube", "mose", "generic")


@dataclass(frozen=True, slots=True)
class Places:
    """Paths that the user gave; `data` is MOSE's or a generic folder's, `corrupted` holds the frames of one corruption."""

    davis: Path | None = None
    youtube: Path | None = None
    data: Path | None = None
    corrupted: Path | None = None

    @classmethod
    def of(cls, dataset: str, folder: Path, corrupted: Path | None = None) -> Places:
        """Return the places of a data set that lies in one folder."""
        if dataset == "youtube":
            return cls(youtube=folder, corrupted=corrupted)
        return cls(data=folder, corrupted=corrupted) if dataset == "mose" else cls(davis=folder, corrupted=corrupted)

    def told_by(self) -> str:
        """Return the data set that the given paths belong to; raises `UsageError` if that is not one."""
        if self.corrupted is not None:
            return "davis-c"
        told = {"davis": self.davis, "youtube": self.youtube, "generic": self.data}
        named = [name for name, path in told.items() if path is not None]
        if len(named) != 1:
            found = "no data set was named" if not named else "several data sets were named"
            raise UsageError(found, expected="one of --davis_path, --yv_path and --data_path, or --dataset with its path")
        return named[0]


def split_name(split: str | None) -> str | None:
    """Return the split in the layouts' words: the original writes testdev."""
    return {"testdev": "test-dev"}.get(split or "", split)


def open_dataset(dataset: str, places: Places, split: str | None, *, listed_only: bool = False) -> tuple[Clip, ...]:
    """Return the clips of a benchmark.

    Args:
        dataset: one of `DATASETS`.
        places: where it is.
        split: None for the evaluation split; `val` means `valid` where that is its name.
        listed_only: YouTube-VOS without the frames that are not scored.

    Raises:
        UsageError: a path or split that the data set needs or has not.
        LayoutError: the folder is laid out otherwise.
    """
    from vos_core.data.layout import open_layout

    split = split_name(split)
    if dataset in ("davis", "davis16"):
        return open_layout("davis", _path(places.davis, dataset), split, year=2016 if dataset == "davis16" else 2017).clips
    if dataset == "davis-c":
        return open_layout("davis-c", _path(places.corrupted, dataset), split, davis_root=_path(places.davis, dataset)).clips
    if dataset == "youtube":
        # The original's default split val does not exist here.
        split = "valid" if split == "val" else split
        return open_layout("youtube-vos", _path(places.youtube, dataset), split, frames="listed" if listed_only else "auto").clips
    if dataset == "mose":
        return open_layout("mose", _path(places.data, dataset), "valid" if split == "val" else split).clips
    if split is not None:
        raise UsageError(f"--split {split} with a generic folder of clips", fix="Leave out --split")
    return open_layout("folder", _path(places.data, dataset)).clips


def read_list(path: Path) -> list[str]:
    """Return the clip names in a text file, one a line."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise LayoutError(f"list of clips {path} cannot be read ({error})", fix="Check --video_set_filename") from error


def only_listed(clips: tuple[Clip, ...], names: Iterable[str], *, where: str) -> tuple[Clip, ...]:
    """Return the clips called `names`, in that order; raises `LayoutError`, blaming `where`, for an unknown name or none."""
    wanted = [name.strip() for name in names if name.strip()]
    known = {clip.name: clip for clip in clips}
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        found = f"{where} lists {', '.join(unknown[:5]) or 'nothing'}"
        raise LayoutError(found, expected=f"clip names such as {min(known, default='')}")
    return tuple(known[name] for name in dict.fromkeys(wanted))


_OPTIONS = {
    "davis": "--davis_path",
    "davis16": "--davis_path",
    "davis-c": "--davis_path and --corrupted_image_dir",
    "youtube": "--yv_path",
    "mose": "--data_path",
    "generic": "--data_path",
}


def _path(path: Path | None, dataset: str) -> Path:
    if path is None:
        raise UsageError(f"data set {dataset} needs its folder", fix=f"Give {_OPTIONS[dataset]}")
    return path
