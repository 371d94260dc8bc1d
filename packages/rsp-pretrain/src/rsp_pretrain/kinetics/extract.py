"""Unpacking archives of videos: every file whole or absent, nothing outside the folder, done archives remembered."""

from __future__ import annotations

import shutil
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from rsp_pretrain.kinetics.jobs import Outcome, remove_leftovers, run_jobs
from rsp_pretrain.kinetics.places import Places
from vos_core.data.listing import VIDEO_SUFFIXES
from vos_core.errors import LayoutError
from vos_core.io.atomic import replacing, write_json

ARCHIVES = (".tar.gz", ".tgz", ".tar")


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive and the folder for its videos; `delete` removes it once it is unpacked."""

    path: Path
    folder: Path
    delete: bool = False

    @property
    def marker(self) -> Path:
        """File that says the archive is done: its videos may have been moved on since."""
        return self.folder.with_name(f"{self.folder.name}.done.json")


def extract(
    root: Path,
    *,
    delete: bool = False,
    processes: int = 1,
    dry_run: bool = False,
    on_done: Callable[[int, int], object] | None = None,
) -> Outcome:
    """Unpack every archive below `<root>/k400_targz` to `<root>/extracted/<archive>`.

    Args:
        root: data folder.
        delete: remove each archive when it is unpacked (saves half the disk).
        processes: archives at a time.
        dry_run: say what would be unpacked.
        on_done: called with (archives ended, archives in all).

    Raises:
        LayoutError: there is no archive.
        OutputError: the disk is full or read-only.
    """
    places = Places(root)
    found = sorted(path for path in places.archives.parent.rglob("*") if path.name.endswith(ARCHIVES) and path.is_file())
    archives = [Archive(path, places.extracted / archive_stem(path.name), delete) for path in found]
    done_before = sorted(places.extracted.glob("*.done.json"))
    if not archives and not done_before:
        raise LayoutError(f"there is no archive below {places.archives.parent}", fix="Run: rsp-pretrain data download")
    missing = [item for item in archives if not item.marker.is_file()]
    outcome = Outcome(planned=[f"{item.path} -> {item.folder}" for item in missing], kept=len(done_before))
    if dry_run:
        return outcome
    outcome.notes["videos"] = 0
    for count, done in enumerate(run_jobs(unpack, missing, processes=processes), 1):
        if done.error is None:
            outcome.written += 1
            outcome.notes["videos"] += done.result
        else:
            outcome.failed.append((str(done.item.path), str(done.error)))
        if on_done is not None:
            on_done(count, len(missing))
    return outcome


def unpack(archive: Archive) -> int:
    """Write the videos of one archive, without the folders they lie in there, and return how many it holds.

    Raises:
        LayoutError: the archive is damaged; videos before the damage stay.
        OutputError: a video cannot be written.
    """
    count = 0
    try:
        with tarfile.open(archive.path, "r|*") as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                if not member.isfile() or PurePosixPath(name).suffix.lower() not in VIDEO_SUFFIXES or name.startswith("."):
                    continue
                count += 1
                target = archive.folder / name
                if target.is_file() and target.stat().st_size == member.size:
                    continue
                remove_leftovers(target)
                content = tar.extractfile(member)
                assert content is not None  # a regular file
                with replacing(target) as temporary, temporary.open("wb") as file:
                    shutil.copyfileobj(_Content(content), file, 1 << 20)
    except (_Torn, tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise LayoutError(
            f"archive {archive.path} is damaged after {count} videos ({error})",
            fix="Delete it, run: rsp-pretrain data download, then this command again",
        ) from error
    write_json(archive.marker, {"archive": archive.path.name, "bytes": archive.path.stat().st_size, "videos": count})
    if archive.delete:
        archive.path.unlink()
    return count


class _Torn(Exception):  # noqa: N818 - tells a damaged archive from a disk that is full
    pass


class _Content:
    """A member's bytes; what goes wrong while they are read is the archive's fault, not the disk's."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise _Torn(str(error)) from error


def archive_stem(name: str) -> str:
    """Return the file name of an archive without its suffix: the name of the folder of its videos."""
    return name.removesuffix(next((suffix for suffix in ARCHIVES if name.endswith(suffix)), ""))
