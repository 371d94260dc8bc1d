"""Downloading Kinetics-400: the list of archives, the archives, the replacements and the table of classes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rsp_pretrain.kinetics.jobs import Outcome, run_jobs
from rsp_pretrain.kinetics.places import REPLACEMENTS, Places
from vos_core.data.listing import read_lines
from vos_core.errors import LayoutError
from vos_core.weights.cache import exclusive
from vos_core.weights.download import fetch

SOURCE = "https://s3.amazonaws.com/kinetics/400"


@dataclass(frozen=True, slots=True)
class Download:
    """One file to fetch; `progress` shows a bar."""

    url: str
    path: Path
    progress: bool = False


def download(
    root: Path,
    *,
    source: str = SOURCE,
    begin: int = 0,
    end: int | None = None,
    processes: int = 1,
    dry_run: bool = False,
    on_done: Callable[[int, int], object] | None = None,
) -> Outcome:
    """Fetch what is missing below `root`; a torn download goes on at its last byte.

    Args:
        root: data folder.
        source: address of the folder `400`; another one is taken for a mirror of it, also for addresses in the list.
        begin, end: slice of the list of archives, to split the work or to take a part.
        processes: downloads at a time.
        dry_run: fetch nothing but the list (to a temporary file) and say what would be fetched.
        on_done: called with (files ended, files in all).

    Raises:
        WeightsError: the list of archives cannot be fetched.
        OutputError: the disk is full or read-only.
        LayoutError: a list that names no archive.
    """
    places, source = Places(root), source.rstrip("/")
    wanted = [
        Download(f"{source}/annotations/train.csv", places.annotations),
        Download(f"{source}/{REPLACEMENTS}.tgz", places.replacements),
        *_archives(places, source, begin=begin, end=end, dry_run=dry_run),
    ]
    missing = [item for item in wanted if not item.path.is_file()]
    outcome = Outcome(planned=[f"{item.url} -> {item.path}" for item in missing], kept=len(wanted) - len(missing))
    if dry_run:
        return outcome
    shown = [Download(item.url, item.path, progress=processes <= 1) for item in missing]
    for count, done in enumerate(run_jobs(_fetch, shown, processes=processes), 1):
        if done.error is None:
            outcome.written += 1
        else:
            outcome.failed.append((str(done.item.path), str(done.error)))
        if on_done is not None:
            on_done(count, len(missing))
    return outcome


def archive_names(path: Path) -> list[str]:
    """Return the file names of the archives in a list of addresses; empty without the list."""
    return [line.rsplit("/", 1)[-1] for line in read_lines(path)] if path.is_file() else []


def _archives(places: Places, source: str, *, begin: int, end: int | None, dry_run: bool) -> list[Download]:
    url, path = f"{source}/train/k400_train_path.txt", places.archive_list
    if path.is_file():
        lines = read_lines(path)
    elif dry_run:
        with tempfile.TemporaryDirectory() as folder:
            lines = read_lines(_fetch(Download(url, Path(folder) / path.name)))
    else:
        lines = read_lines(_fetch(Download(url, path)))
    if not lines or not all(line.startswith(("http://", "https://")) for line in lines):
        raise LayoutError(f"list {path} holds no addresses", fix="Delete it and run the command again")
    return [Download(line.replace(SOURCE, source, 1), places.archives / line.rsplit("/", 1)[-1]) for line in lines[begin:end]]


def _fetch(item: Download) -> Path:
    with exclusive(item.path):
        if not item.path.is_file():
            fetch(item.url, item.path, page=item.url, room="Free space, or choose another --datadir", progress=item.progress)
    item.path.with_name(f".{item.path.name}.guard").unlink(missing_ok=True)
    return item.path
