"""The label list: every video that really decodes, with its class; what was decoded is remembered."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rsp_pretrain.data.readers import VideoReader, count_frames
from rsp_pretrain.kinetics.jobs import Outcome, run_jobs
from rsp_pretrain.kinetics.places import Places, read_annotations
from vos_core.errors import FrameError, LayoutError
from vos_core.extras import require
from vos_core.io.atomic import output_error, write_bytes, write_text

NAME = "label_full_1.0.pickle"
CHECKED = "checked.jsonl"
Decode = Literal["full", "ends"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One video to decode: whole, or its first and last frame."""

    path: Path
    decode: Decode


def make_labels(
    root: Path,
    *,
    folder: Literal["train2", "train"] = "train2",
    decode: Decode = "full",
    min_frames: int = 2,
    processes: int = 1,
    dry_run: bool = False,
    on_done: Callable[[int, int], object] | None = None,
) -> Outcome:
    """Write `<root>/labels/label_full_1.0.pickle`, a pickled list of (class index, path relative to `root`).

    Class indices number all classes in name order: those of `annotations/train.csv`, where it is, and the folders'. So they do
    not depend on the file system, nor on which classes are there already.

    Args:
        root: data folder.
        folder: which videos.
        decode: `full` decodes every frame; `ends` only the first and the last, which misses damage in between.
        min_frames: shorter videos are left out.
        processes: videos at a time.
        dry_run: say how many videos would be decoded.
        on_done: called with (videos decoded, videos to decode).

    Returns:
        The outcome; `failed` names the videos that were left out. They are decoded again when their file changes.

    Raises:
        LayoutError: there is no video, or none that decodes.
        MissingExtraError: PyAV is not installed.
        OutputError: the list cannot be written.
    """
    require("av", extra="video", purpose="decode video")
    places = Places(root)
    videos = places.videos(folder)
    if not any(videos.values()):
        fix = (
            "Run: rsp-pretrain data rescale, or give --filedir train" if folder == "train2" else "Run: rsp-pretrain data arrange"
        )
        raise LayoutError(f"there is no video in {root / folder}", fix=fix)
    named = set(read_annotations(places.annotations).values()) if places.annotations.is_file() else set()
    classes = sorted({*named, *videos})
    journal = _Journal(places.labels / CHECKED, root, decode)
    missing = [path for paths in videos.values() for path in paths if journal.find(path) is None]
    outcome = Outcome(planned=[f"decode {path}" for path in missing])
    outcome.kept = sum(map(len, videos.values())) - len(missing)
    if dry_run:
        return outcome
    trials = [Trial(path, decode) for path in missing]
    for count, done in enumerate(run_jobs(_try, trials, processes=processes), 1):
        journal.add(done.item.path, frames=done.result, error=None if done.error is None else str(done.error))
        outcome.written += 1
        if on_done is not None:
            on_done(count, len(missing))
    entries: list[tuple[int, str]] = []
    for index, name in enumerate(classes):
        for path in videos.get(name, ()):
            found = journal.find(path)
            assert found is not None  # all that were missing were tried
            relative = path.relative_to(root).as_posix()
            if found["error"] is not None:
                outcome.failed.append((relative, found["error"]))
            elif found["frames"] < min_frames:
                outcome.failed.append((relative, f"it has {found['frames']} frames, --min-frames is {min_frames}"))
            else:
                entries.append((index, relative))
    if not entries:
        raise LayoutError(f"none of the videos in {root / folder} can be decoded", fix="Download them again")
    write_bytes(places.labels / NAME, pickle.dumps(entries, protocol=4))
    write_text(places.labels / "classes.txt", "".join(f"{name}\n" for name in classes))
    outcome.notes = {"list": str(places.labels / NAME), "entries": len(entries), "classes": len(classes)}
    return outcome


def tried_videos(root: Path) -> frozenset[str]:
    """Return the paths, relative to `root`, of all videos that `make_labels` has decoded or failed to."""
    return frozenset(_Journal(Places(root).labels / CHECKED, root, "ends").names)


class _Journal:
    """What decoding found, one JSON object a line, so that a stopped run goes on; a torn last line is ignored."""

    def __init__(self, path: Path, root: Path, decode: Decode) -> None:
        self._path, self._root, self._decode = path, root, decode
        self._known: dict[str, dict[str, Any]] = {}
        self._torn = False
        if path.is_file():
            data = path.read_bytes()
            self._torn = bool(data) and not data.endswith(b"\n")  # the next entry must not be joined to the torn line
            for line in data.splitlines():
                try:
                    entry = json.loads(line)
                    self._known[entry["path"]] = entry
                except (ValueError, KeyError, TypeError):
                    continue

    @property
    def names(self) -> tuple[str, ...]:
        """Videos that were decoded, or failed to."""
        return tuple(self._known)

    def find(self, path: Path) -> dict[str, Any] | None:
        """Return what is known of a file that has not changed, if it was decoded as thoroughly as is asked now."""
        entry = self._known.get(path.relative_to(self._root).as_posix())
        if entry is None or [entry["size"], entry["changed"]] != _stamp(path):
            return None
        return entry if entry["decode"] == "full" or self._decode == "ends" or entry["error"] is not None else None

    def add(self, path: Path, *, frames: int | None, error: str | None) -> None:
        size, changed = _stamp(path)
        name = path.relative_to(self._root).as_posix()
        entry = {"path": name, "size": size, "changed": changed, "decode": self._decode, "frames": frames, "error": error}
        self._known[name] = entry
        text = "\n" * self._torn + json.dumps(entry) + "\n"
        self._torn = False
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise output_error(self._path, error) from error


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _try(trial: Trial) -> int:
    if trial.decode == "full":
        return count_frames(trial.path)
    reader = VideoReader(trial.path)
    try:
        reader.read([0, len(reader) - 1])
        return len(reader)
    except FrameError:
        raise
    finally:
        reader.close()
