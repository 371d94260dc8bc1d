"""Where downloaded checkpoints lie, and the lock file that remembers the sha256 each one had at its first download."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vos_core.errors import OutputError, WeightsError
from vos_core.io.atomic import write_json

CACHE_FIX = "Free space there, or set VOS_CACHE to a folder that can be written"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class LockRecord:
    """What a checkpoint was when it first came: `size` in bytes, `sha256` in hex, `recorded` as UTC time."""

    url: str
    size: int
    sha256: str
    recorded: str


def cache_folder() -> Path:
    """Return the folder of downloaded files: `$VOS_CACHE`, else `$XDG_CACHE_HOME/vos`, else `~/.cache/vos`."""
    if chosen := os.environ.get("VOS_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG rules say that a relative path is to be ignored.
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "vos"


def weights_folder() -> Path:
    """Return the folder below `cache_folder()` that holds checkpoints and their lock file."""
    return cache_folder() / "weights"


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hex, read in chunks.

    Raises:
        WeightsError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise WeightsError(
            f"weights file {path} cannot be read ({error.strerror})", fix="Check the path and permissions"
        ) from error
    return digest.hexdigest()


def read_lock(key: str) -> LockRecord | None:
    """Return what the lock file says about `key` (`method/name`), or None.

    Raises:
        WeightsError: the lock file is not what `write_lock` wrote.
    """
    try:
        found = _read_all().get(key)
        return None if found is None else LockRecord(**found)
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"lock file {_lock_path()} is damaged ({error})",
            fix="Delete it; hashes are recorded again from the files that are there",
        ) from error


def write_lock(key: str, record: LockRecord) -> None:
    """Set what the lock file says about `key`; safe while other processes do the same."""
    with exclusive(_lock_path()):
        read_lock(key)  # a damaged file must not be replaced silently
        write_json(_lock_path(), {**_read_all(), key: asdict(record)})


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the right to write `path` against other threads and processes; it ends with the process, however it dies.

    Raises:
        OutputError: the folder cannot be written.
    """
    guard = path.with_name(f".{path.name}.guard")
    try:
        guard.parent.mkdir(parents=True, exist_ok=True)
        file = guard.open("a+b")
    except OSError as error:
        raise OutputError(f"cannot write to cache folder {guard.parent}: {error.strerror}", fix=CACHE_FIX) from error
    # The guard stays: removing it would let a waiter lock a file that is no longer there.
    with file:
        _acquire(file.fileno())
        try:
            yield
        finally:
            _release(file.fileno())


def _lock_path() -> Path:
    return weights_folder() / "lock.json"


def _read_all() -> dict[str, dict[str, Any]]:
    try:
        data: dict[str, dict[str, Any]] = json.loads(_lock_path().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return data


if sys.platform == "win32":
    import msvcrt

    def _acquire(handle: int) -> None:
        while True:
            try:
                os.lseek(handle, 0, os.SEEK_SET)
                return msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            except OSError:
                time.sleep(0.2)

    def _release(handle: int) -> None:
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _acquire(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX)

    def _release(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)
