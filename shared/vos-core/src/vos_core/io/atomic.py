"""Files that are whole or absent: written beside their place, then renamed."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vos_core.errors import OutputError

_UMASK = os.umask(0)  # can only be read by setting it, which threads must not do later
os.umask(_UMASK)
_FILE_MODE = 0o666 & ~_UMASK  # mkstemp makes private files; results are ordinary ones
_CAUSES = {
    errno.ENOSPC: ("the disk is full", "Free space or choose another --output, then run the same command again to resume"),
    errno.EDQUOT: (
        "the disk quota is used up",
        "Free space or choose another --output, then run the same command again to resume",
    ),
    errno.EROFS: ("the file system is read-only", "Choose another --output"),
    errno.EACCES: ("permission denied", "Choose another --output or change its permissions"),
    errno.EPERM: ("permission denied", "Choose another --output or change its permissions"),
    errno.ENOTDIR: ("a part of its path is a file", "Choose another --output"),
}


def output_error(path: Path, error: OSError) -> OutputError:
    """Return the `OutputError` that explains why `path` could not be written."""
    cause, fix = _CAUSES.get(error.errno or 0, (error.strerror or str(error), "Check the output folder"))
    return OutputError(f"cannot write {path}: {cause}", fix=fix)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, remove it otherwise.

    Raises:
        OutputError: the folder cannot be made or the file not written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise output_error(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(_FILE_MODE)
        temporary.replace(path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically, making parent folders."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 with LF line ends to `path` atomically, making parent folders."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` atomically, making parent folders."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
