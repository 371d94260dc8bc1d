"""Names of released checkpoints: where each comes from, what it must be, and the file on this machine that is it."""

from __future__ import annotations

import difflib
import functools
import re
import time
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from vos_core.contract import discover
from vos_core.errors import VosError, WeightsError
from vos_core.weights.cache import LockRecord, exclusive, read_lock, sha256_of, weights_folder, write_lock
from vos_core.weights.manifest import Manifest, read_manifest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_SUFFIXES = frozenset({".pth", ".pt", ".pkl", ".bin", ".safetensors", ".ckpt"})
_ENTRIES: dict[str, WeightsEntry] = {}


@dataclass(frozen=True)
class WeightsEntry:
    """A released checkpoint.

    Args:
        name: what `--weights` takes: letters, digits and `._+-`, unique over all methods.
        method: name of the method it belongs to.
        url: `https://...`, `http://...`, or `gdrive:FILE_ID` for a file shared on Google Drive.
        size: bytes, if known.
        sha256: hex digest, if known; else the one of the first download is kept in the lock file.
        licence: SPDX name or a few words.
        source: page where a person finds the file.
        manifest: key -> (shape, dtype), or a JSON file of it; None if not known.
        notes: what it was trained on, what it is for.
    """

    name: str
    method: str
    url: str
    size: int | None = None
    sha256: str | None = None
    licence: str = ""
    source: str = ""
    manifest: Manifest | Path | None = None
    notes: str = ""

    def __post_init__(self) -> None:
        if not (_NAME.fullmatch(self.name) and _NAME.fullmatch(self.method)):
            raise WeightsError(f"weights name '{self.method}/{self.name}' is not usable", expected="letters, digits and ._+-")
        if not re.match(r"https?://[^/]|gdrive:[\w-]+$", self.url):
            raise WeightsError(f"weights '{self.name}' have the URL '{self.url}'", expected="http://, https:// or gdrive:FILE_ID")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise WeightsError(f"weights '{self.name}' have the sha256 '{self.sha256}'", expected="64 lower-case hex digits")

    @property
    def key(self) -> str:
        """`method/name`, as the lock file has it."""
        return f"{self.method}/{self.name}"

    @property
    def cached_path(self) -> Path:
        """Where the file lies once downloaded, or may be put by hand."""
        suffix = PurePosixPath(urlsplit(self.url).path).suffix.lower()
        return weights_folder() / self.method / f"{self.name}{suffix if suffix in _SUFFIXES else '.pth'}"

    def read_manifest(self) -> Manifest | None:
        """Return the key manifest, read from its file if it is one; None if not known."""
        return read_manifest(self.manifest) if isinstance(self.manifest, Path) else self.manifest


@dataclass(frozen=True, slots=True)
class ResolvedWeights:
    """A checkpoint file on this machine; `name` is None when it was given as a path."""

    path: Path
    name: str | None
    sha256: str


def register(entry: WeightsEntry) -> None:
    """Add an entry; adding the same one again does nothing.

    Raises:
        WeightsError: another entry has this name.
    """
    if _ENTRIES.setdefault(entry.name, entry) != entry:
        raise WeightsError(
            f"weights '{entry.name}' are registered twice, by {_ENTRIES[entry.name].method} and {entry.method}",
            expected="a name that is unique over all methods",
        )


def entries(method: str | None = None) -> list[WeightsEntry]:
    """Return the entries of all installed methods, or of one, in name order."""
    _register_methods()
    return sorted((entry for entry in _ENTRIES.values() if method in (None, entry.method)), key=lambda entry: entry.key)


def get(name: str, *, method: str | None = None) -> WeightsEntry:
    """Return the entry called `name`.

    Raises:
        WeightsError: there is none (the message lists the closest names), or it belongs to another method than `method`.
    """
    _register_methods()
    entry = _ENTRIES.get(name)
    if entry is not None and method in (None, entry.method):
        return entry
    known = [item.name for item in entries(method)]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
    whose = f" for method {method}" if method else ""
    found = f"no file and no registered weights{whose} are called '{name}'"
    if entry is not None:
        found = f"weights '{name}' belong to method {entry.method}, not {method}"
    raise WeightsError(
        found,
        expected=f"the path of a file, or one of: {', '.join(close)}" if close else "the path of a file",
        fix="Run vos weights list to see all names",
    )


def resolve(
    name_or_path: str | Path, *, method: str | None = None, download: bool = True, progress: bool = True
) -> ResolvedWeights:
    """Return the checkpoint file for a path or a registered name, downloading it if need be.

    A path of a file that exists wins over a name, so everything works offline. A name is looked for in the cache folder;
    a file there is checked against the entry's sha256, else against the one in the lock file.

    Args:
        name_or_path: a file, or a name in the registry.
        method: accept only names of this method.
        download: fetch a file that is not in the cache; False = fail instead.
        progress: show a bar on stderr.

    Raises:
        WeightsError: no such file or name, the download failed, or the file is not the expected one.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return ResolvedWeights(path, None, sha256_of(path))
    if path.is_dir() and str(name_or_path) not in {entry.name for entry in entries()}:
        raise WeightsError(f"weights {path} are a folder", expected="a checkpoint file or a registered name")
    return resolve_entry(get(str(name_or_path), method=method), download=download, progress=progress)


def resolve_entry(entry: WeightsEntry, *, download: bool = True, force: bool = False, progress: bool = True) -> ResolvedWeights:
    """Return the verified file of an entry, downloading it if need be.

    Args:
        entry: what to find.
        download: fetch a file that is not in the cache; False = fail instead.
        force: fetch it although it is there, and accept that it changed since its first download.
        progress: show a bar on stderr.

    Raises:
        WeightsError: as for `resolve`.
    """
    target = entry.cached_path
    if not force and target.is_file() and read_lock(entry.key):  # works in a read-only cache, too
        return ResolvedWeights(target, entry.name, _verified(entry, target, force=False))
    if not download and not target.is_file():
        raise WeightsError(
            f"weights '{entry.name}' are not at {target}",
            fix=f"Run vos weights download {entry.name}, or save {_page(entry)} as that file",
        )
    with exclusive(target):  # a second process waits here and then finds the file
        if force or not target.is_file():
            _download(entry, target, force=force, progress=progress)
        return ResolvedWeights(target, entry.name, _verified(entry, target, force=force))


def _download(entry: WeightsEntry, target: Path, *, force: bool, progress: bool) -> None:
    from vos_core.weights.download import fetch

    record = None if force else read_lock(entry.key)
    if record and not entry.sha256:
        changed = f"The publisher has replaced the file since {record.recorded}: run vos weights download {entry.name} --force"
    else:
        changed = f"Run the command again; if it stays so, compare {entry.source or entry.url} with the registry"
    fetch(
        entry.url,
        target,
        size=entry.size,
        sha256=entry.sha256 or (record.sha256 if record else None),
        page=_page(entry),
        changed=changed,
        label=entry.name,
        progress=progress,
    )


def _verified(entry: WeightsEntry, target: Path, *, force: bool) -> str:
    """Return the sha256 of the cached file after comparing it with the entry and the lock file; record it if new."""
    record = None if force else read_lock(entry.key)
    digest, size = sha256_of(target), target.stat().st_size
    again = f"Delete it and run vos weights download {entry.name} again"
    for expected, origin in (
        (entry.sha256, "the registry"),
        (record.sha256 if record else None, "the lock file of its download"),
    ):
        if expected not in (None, digest):
            raise WeightsError(f"weights file {target} has sha256 {digest}", expected=f"{expected} ({origin})", fix=again)
    if entry.size not in (None, size):
        raise WeightsError(f"weights file {target} has {size} bytes", expected=f"{entry.size}", fix=again)
    if record is None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_lock(entry.key, LockRecord(url=entry.url, size=size, sha256=digest, recorded=now))
    return digest


def _page(entry: WeightsEntry) -> str:
    """Return the address that a person opens to get the file."""
    if entry.url.startswith("gdrive:"):
        return f"https://drive.google.com/file/d/{entry.url.removeprefix('gdrive:')}/view"
    return entry.url


@functools.cache
def _register_methods() -> None:
    """Ask each installed method once for its entries; one that fails is left out with a warning."""
    for info in discover().values():
        if info.register is None:
            continue
        try:
            info.register()
        except VosError as error:
            warnings.warn(f"weights of method {info.name} are left out: {error}", stacklevel=2)
