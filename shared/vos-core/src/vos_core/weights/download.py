"""Downloads that go on where they were cut, arrive whole or not at all, and are what they should be."""

from __future__ import annotations

import errno
import http.client
import json
import re
import shutil
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vos_core.errors import OutputError, WeightsError
from vos_core.weights.cache import CACHE_FIX, sha256_of
from vos_core.weights.web_page import WebPage, drive_url, is_web_page

ATTEMPTS = 5
"""Connections in a row that may bring nothing before the download is given up."""
PAUSE = 1.0
"""Seconds before the second attempt; each further pause is twice as long, up to 30."""
_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 18
_PAGE_LIMIT = 1 << 20  # bytes of a web page that are read for its title and form
_FINAL = frozenset({400, 401, 403, 404, 405, 410, 451})  # asking again gives the same answer


@dataclass(frozen=True, slots=True)
class _PartNote:
    """What a `.part` file is a part of; kept beside it so that parts of two versions are never joined."""

    url: str
    validator: str = ""  # strong ETag or Last-Modified
    total: int | None = None


class _Retry(Exception):  # noqa: N818 - a signal between two functions of this file
    """The connection broke or the server is busy; the text says how."""


def fetch(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    page: str = "",
    changed: str = "Run the command again",
    room: str = CACHE_FIX,
    label: str = "",
    progress: bool = True,
) -> None:
    """Download `url` to `target`, resuming `target.part`; the caller holds `exclusive(target)`.

    Args:
        url: `http(s)://...` or `gdrive:FILE_ID`.
        target: final place; appears only when complete and checked.
        size: expected bytes, if known.
        sha256: expected hex digest, if known.
        page: address that a person can open, named when the file must be fetched by hand.
        changed: what to do when the file on the server is another one than expected.
        room: what to do when the target's folder is full or cannot be written.
        label: name on the progress bar.
        progress: show the bar on stderr.

    Raises:
        WeightsError: not found, no server, a web page instead of the file, wrong size or sha256.
        OutputError: the target's folder cannot be written or is full.
    """
    address = drive_url(url.removeprefix("gdrive:")) if url.startswith("gdrive:") else url
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        transfer = _Transfer(address, target=target, size=size, page=page or url, changed=changed, room=room)
        with tqdm(desc=label or target.name, unit="B", unit_scale=True, disable=not progress, leave=False) as bar:
            _complete(transfer, bar)
        digest = sha256_of(transfer.part) if sha256 else None
        if digest != sha256:
            transfer.discard()
            raise WeightsError(f"the file at {page or url} has sha256 {digest}", expected=str(sha256), fix=changed)
        transfer.part.replace(target)
        transfer.note_path.unlink(missing_ok=True)
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise OutputError(f"cannot write {target}.part: {reason}", fix=f"{room}; the download resumes") from error


def _complete(transfer: _Transfer, bar: tqdm[Any]) -> None:
    """Connect again and again until the part is whole; give up after `ATTEMPTS` connections without progress."""
    failures, most = 0, transfer.have
    while not transfer.complete:
        try:
            transfer.connect(bar)
        except _Retry as error:
            # Only bytes beyond all earlier attempts count, or a server that cuts and cannot resume would be asked forever.
            failures = failures + 1 if transfer.have <= most else 1
            most = max(most, transfer.have)
            if failures >= ATTEMPTS:
                raise WeightsError(
                    f"download of {transfer.page} failed {ATTEMPTS} times in a row: {error}",
                    fix=f"Check the network and run the command again, it resumes; or save the file by hand as {transfer.target}",
                ) from error
            time.sleep(min(PAUSE * 2 ** (failures - 1), 30.0))


class _Transfer:
    """One file on its way: the address, the part on disk, and what the server said about the whole."""

    def __init__(self, url: str, *, target: Path, size: int | None, page: str, changed: str, room: str) -> None:
        self.url, self.target, self.page = url, target, page
        self.part = target.with_name(f"{target.name}.part")
        self.note_path = target.with_name(f"{target.name}.part.json")
        self.complete = False
        self._origin, self._size, self._changed, self._room = url, size, changed, room
        self._forms_left = 2
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        self._note = self._read_note()
        if self._note is None:
            self.discard()

    @property
    def have(self) -> int:
        """Bytes of the part on disk."""
        return self.part.stat().st_size if self.part.exists() else 0

    def discard(self) -> None:
        """Delete the part; the next connection starts at the first byte."""
        self.part.unlink(missing_ok=True)
        self.note_path.unlink(missing_ok=True)
        self._note = None

    def connect(self, bar: tqdm[Any]) -> None:
        """Ask for the missing bytes and append what comes; sets `complete` when all are there.

        Raises:
            _Retry: the connection broke; what came is kept.
        """
        total = self._size if self._size is not None else self._note.total if self._note else None
        if total is not None and self.have > total:
            self.discard()  # a part of something else
        try:
            with self._opener.open(self._request(), timeout=_TIMEOUT) as response:
                self._receive(response, bar)
        except urllib.error.HTTPError as error:
            self._refused(error)
        except urllib.error.URLError as error:
            raise _Retry(f"no connection ({error.reason})") from error
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:  # before the first byte of the answer
            raise _Retry(f"no answer ({type(error).__name__})") from error

    def _request(self) -> urllib.request.Request:
        # Compressed transfer would make lengths and ranges those of the compressed bytes.
        headers = {"User-Agent": "vos-core", "Accept-Encoding": "identity"}
        if self.have:
            headers["Range"] = f"bytes={self.have}-"
            if self._note and self._note.validator:
                headers["If-Range"] = self._note.validator
        return urllib.request.Request(self.url, headers=headers)

    def _receive(self, response: http.client.HTTPResponse, bar: tqdm[Any]) -> None:
        length = response.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else None
        start = 0
        if response.status == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            start, total = (int(found[1]), int(found[2]) if found[2] != "*" else None) if found else (-1, None)
        note = _PartNote(self._origin, _validator(response), total)
        if start and (start != self.have or (self._note is not None and _differ(self._note, note))):
            self.discard()
            raise _Retry("the file on the server changed during the download")
        first = self._read(response, 512)
        if not start and is_web_page(first):
            self._follow_form(first + self._read(response, _PAGE_LIMIT), response)
            return
        if self._size is not None and total not in (None, self._size):
            self.discard()
            raise WeightsError(f"the file at {self.page} has {total} bytes", expected=f"{self._size}", fix=self._changed)
        self._require_space(total, start=start)
        self._note = note
        self.note_path.write_text(json.dumps(asdict(note)), encoding="utf-8")
        bar.reset(total=total)
        bar.update(start)
        with self.part.open("ab" if start else "wb") as file:
            chunk = first
            while chunk:
                file.write(chunk)
                file.flush()  # `have` and a killed process must see what came
                bar.update(len(chunk))
                chunk = self._read(response, _CHUNK)
        self._finish(total)

    def _read(self, response: http.client.HTTPResponse, count: int) -> bytes:
        try:
            return response.read(count)
        except (http.client.HTTPException, OSError) as error:  # apart from the OSErrors of writing, which are not the network's
            raise _Retry(f"the connection was cut after {self.have} bytes ({type(error).__name__})") from error

    def _finish(self, total: int | None) -> None:
        """Set `complete` if all bytes are there. Without a length from the server, an ended stream is all there is."""
        expected = total if total is not None else self._size
        if expected is not None and self.have < expected:
            raise _Retry(f"the connection was cut after {self.have} of {expected} bytes")
        if expected is not None and self.have > expected:
            found = self.have
            self.discard()
            raise WeightsError(f"the file at {self.page} has {found} bytes", expected=f"{expected}", fix=self._changed)
        if not self.have:
            raise _Retry("the server sent an empty file")
        self.complete = True

    def _follow_form(self, body: bytes, response: http.client.HTTPResponse) -> None:
        """Go on at the address that the page's download form names; without one, explain what came."""
        page = WebPage(body.decode("utf-8", errors="replace"), url=response.url)
        self._forms_left -= 1
        if page.form_url and self._forms_left >= 0:
            self.url = page.form_url
            return
        self.discard()
        raise WeightsError(
            f"{self.page} answers with a web page ('{page.title or 'no title'}') instead of the file",
            fix=f"Open {self.page} in a browser, log in or confirm there, and save the file as {self.target}",
        )

    def _refused(self, error: urllib.error.HTTPError) -> None:
        if error.code == 416:  # the part is as long as the file, or longer
            found = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
            if found and int(found[1]) == self.have and self._size in (None, self.have):
                self.complete = True
                return
            self.discard()
            raise _Retry("the part on disk did not fit the file on the server") from error
        if error.code in _FINAL:
            by_hand = f"Open {self.page} in a browser and save the file as {self.target}"
            raise WeightsError(f"{self.page} answers {error.code} {error.reason}", fix=by_hand) from error
        raise _Retry(f"the server answers {error.code} {error.reason}") from error

    def _require_space(self, total: int | None, *, start: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        reused = 0 if start else self.have  # overwritten from the first byte
        if total is not None and total - start > free + reused:
            raise OutputError(f"cannot write {self.part}: {total - start} bytes are needed and {free} are free", fix=self._room)

    def _read_note(self) -> _PartNote | None:
        """Return the note beside the part if it is about this address, else None."""
        try:
            note = _PartNote(**json.loads(self.note_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return note if note.url == self._origin else None


def _validator(response: http.client.HTTPResponse) -> str:
    etag = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _differ(old: _PartNote, new: _PartNote) -> bool:
    if old.validator and new.validator and old.validator != new.validator:
        return True
    return None not in (old.total, new.total) and old.total != new.total
