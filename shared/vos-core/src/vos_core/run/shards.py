"""Which worker runs which clip (longest first), and the done-list on disk that makes a run resumable."""

from __future__ import annotations

import hashlib
import heapq
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vos_core.errors import OutputError, UsageError
from vos_core.io.atomic import output_error, write_text
from vos_core.run.record import RUN_FILE, clip_from_json, read_run_data
from vos_core.types import Clip, ClipRecord

_BYTES_PER_FRAME = 20_000  # of a compressed video; only orders clips by length


def plan(costs: Sequence[float], workers: int) -> list[list[int]]:
    """Return the indices of `costs` for each worker: longest first, each to the worker with the least so far.

    >>> plan([1, 5, 3, 3], 2)
    [[1, 0], [2, 3]]
    """
    heap = [(0.0, worker) for worker in range(workers)]
    shares: list[list[int]] = [[] for _ in range(workers)]
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        load, worker = heapq.heappop(heap)
        shares[worker].append(index)
        heapq.heappush(heap, (load + costs[index], worker))
    return shares


def clip_cost(clip: Clip) -> float:
    """Return about how many frames `clip` has, without opening it."""
    if clip.video is None:
        return float(len(clip.frames))
    try:
        return clip.video.stat().st_size / _BYTES_PER_FRAME
    except OSError:
        return 0.0


def clip_digest(clip: Clip) -> str:
    """Return a hash over what a clip's result depends on: frame names, masks (by size and time), rule and outputs."""
    described = {
        "frames": [path.name for path in clip.frames],
        "video": _stamp(clip.video) if clip.video else None,
        "masks": {name: _stamp(path) for name, path in sorted(clip.annotations.items())},
        "rule": [clip.mask_kind, clip.prompt_rule, clip.void, clip.binary_output],
        "ids": clip.object_ids,
        "outputs": None if clip.outputs is None else sorted(clip.outputs),
    }
    return fingerprint(described)


def fingerprint(value: Any) -> str:
    """Return a short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _stamp(path: Path) -> list[Any]:
    try:
        found = path.stat()
    except OSError:
        return [path.name]
    return [path.name, found.st_size, found.st_mtime_ns]


class DoneList:
    """Clips of an output folder that are done, kept on disk as they finish.

    While a run works, each process of it appends lines to a file of its own (`run.state.<rank>.jsonl`); at the end they go into
    `run.json`. A line that a kill tore is ignored, so a clip is either done or begins again.

    Args:
        output: the run's folder.
        settings: everything that decides the bytes of the results.
        overwrite: take over a folder whose results other settings made.
        rank: which process of a distributed run this is; None if it is the only one, which then tidies up after others.

    Raises:
        UsageError: the folder holds results of other settings, which are named.
        OutputError: the folder cannot be written.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], *, overwrite: bool = False, rank: int | None = None) -> None:
        self.output = output
        self.settings = json.loads(json.dumps(settings, default=str))
        self.overwrite = overwrite
        self._file = output / f"run.state.{rank or 0}.jsonl"
        self._known: dict[str, dict[str, Any]] = {}
        for old, entries in self._read():
            if old != self.settings:
                if overwrite or not entries:  # one that ended before its first clip, such as for unfit weights, left nothing
                    continue
                raise UsageError(
                    f"{output} holds results of another run: {_difference(old, self.settings)}",
                    fix="Choose another --output, or give --overwrite to replace them",
                )
            for name, entry in entries.items():
                if name not in self._known or "record" in entry:
                    self._known[name] = entry
        lines = [json.dumps({"settings": self.settings}), *(json.dumps({"clip": n, **e}) for n, e in self._known.items())]
        write_text(self._file, "\n".join(lines) + "\n")
        if rank is None:
            for path in set(output.glob("run.state.*.jsonl")) - {self._file}:
                path.unlink(missing_ok=True)

    def _read(self) -> Iterator[tuple[Any, dict[str, dict[str, Any]]]]:
        """Yield settings and entries of `run.json` and of every state file of an unfinished run."""
        if (self.output / RUN_FILE).is_file():
            try:
                data = read_run_data(self.output)
            except OutputError:
                if not self.overwrite:
                    raise
                data = {}
            resume = data.get("resume") or {}
            records = {item["name"]: item for item in data.get("clips", ()) if item.get("status") == "done"}
            entries = {
                name: {**entry, **({"record": records[name]} if name in records else {})}
                for name, entry in resume.get("clips", {}).items()
            }
            yield resume.get("settings"), entries
        for path in sorted(self.output.glob("run.state.*.jsonl")):
            lines = list(_whole_lines(path))
            if lines and "settings" in lines[0]:
                yield lines[0]["settings"], _by_name(lines[1:])

    def done(self, clip: Clip) -> ClipRecord | None:
        """Return the record of `clip` if it is done, its input is unchanged and its masks are still there."""
        entry = self._known.get(clip.name)
        if entry is None or "record" not in entry or entry["digest"] != clip_digest(clip):
            return None
        folder = self.output / clip.name
        present = sum(1 for pattern in ("[!.]*.png", "[0-9]*/[!.]*.png") for _ in folder.glob(pattern))
        return clip_from_json(entry["record"]) if present >= entry["written"] else None

    def records(self) -> dict[str, ClipRecord]:
        """Return the records of all clips that are done, by name."""
        return {name: clip_from_json(entry["record"]) for name, entry in self._known.items() if "record" in entry}

    def check_foreign(self, clip: Clip) -> None:
        """Raise `UsageError` if masks of `clip` are there that no known run wrote."""
        if self.overwrite or clip.name in self._known:
            return
        if next((self.output / clip.name).glob("*.png"), None) is not None:
            raise UsageError(
                f"{self.output / clip.name} holds masks that this run did not write",
                fix="Choose another --output, or give --overwrite to replace them",
            )

    def begin(self, clip: Clip) -> None:
        """Note that files of `clip` may be there from now on."""
        self._append(clip.name, {"begun": True})

    def finish(self, clip: Clip, record: ClipRecord, *, written: int) -> None:
        """Note that `clip` is done with `written` mask files."""
        self._append(clip.name, {"digest": clip_digest(clip), "written": written, "record": asdict(record)})

    def _append(self, name: str, entry: dict[str, Any]) -> None:
        self._known[name] = entry
        try:
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"clip": name, **entry}) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise output_error(self._file, error) from error

    @contextmanager
    def merged(self) -> Iterator[dict[str, dict[str, Any]]]:
        """Yield what all processes of the run know so far, one process at a time; then drop this process's own file."""
        with _locked(self.output):
            for old, entries in self._read():
                if old == self.settings:
                    for name, entry in entries.items():
                        if "record" in entry or name not in self._known:
                            self._known[name] = entry
            yield self._known
            self._file.unlink(missing_ok=True)


def _by_name(lines: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {line["clip"]: {key: value for key, value in line.items() if key != "clip"} for line in lines if "clip" in line}


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            return
        try:
            value = json.loads(line)
        except ValueError:
            return
        if isinstance(value, dict):
            yield value


def _difference(old: Any, new: Mapping[str, Any]) -> str:
    if not isinstance(old, Mapping):
        return "its run.json does not say with which settings"
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return "; ".join(f"{name} was {old.get(name)!r}, now {new.get(name)!r}" for name in names)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold an advisory lock on `folder`, where the system has them, so that ranks that finish together do not lose a record."""
    try:
        import fcntl
    except ImportError:  # Windows, where torchrun ranks on one folder are not supported
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
