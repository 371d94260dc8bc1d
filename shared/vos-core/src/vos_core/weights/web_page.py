"""Web pages that arrive instead of a file: what they are called, and Google Drive's confirmation form in them."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

DRIVE_DOWNLOAD = "https://drive.usercontent.google.com/download"
"""Serves shared files; `confirm=t` answers the question about files too large for the virus scan."""


def drive_url(file_id: str) -> str:
    """Return the address that serves the shared Google Drive file `file_id`."""
    return f"{DRIVE_DOWNLOAD}?{urlencode({'id': file_id, 'export': 'download', 'confirm': 't'})}"


def is_web_page(start: bytes) -> bool:
    r"""Return whether the first bytes of a file are those of an HTML page; no checkpoint begins so.

    >>> is_web_page(b" <!DOCTYPE html><html>"), is_web_page(b"PK\x03\x04")
    (True, False)
    """
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return text.startswith((b"<!doctype html", b"<html", b"<head", b"<!--", b"<?xml"))


class WebPage(HTMLParser):
    """The title of an HTML page and the address that its download form leads to.

    Args:
        html: the page.
        url: where it came from; relative addresses start there.
    """

    def __init__(self, html: str, *, url: str) -> None:
        super().__init__()
        self.title, self._url = "", url
        self._in_title, self._action = False, ""
        self._fields: dict[str, str] = {}
        self.feed(html)

    @property
    def form_url(self) -> str | None:
        """Where the confirmation form (`id="download-form"`) leads, with its hidden fields; None without one."""
        if not self._action:
            return None
        target = urljoin(self._url, self._action)
        parts = urlsplit(target)
        if parts.scheme not in ("http", "https"):
            return None
        return parts._replace(query=urlencode({**dict(parse_qsl(parts.query)), **self._fields})).geturl()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the title, the form and its hidden fields."""
        values = {name: value or "" for name, value in attrs}
        if tag == "title":
            self._in_title = True
        elif tag == "form" and values.get("id") == "download-form":
            self._action = values.get("action", "")
        elif tag == "input" and self._action and values.get("type") == "hidden" and values.get("name"):
            self._fields[values["name"]] = values.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        """Note the end of the title."""
        if tag == "title":
            self._in_title = False

    def handle_data(self, data: str) -> None:
        """Collect the title."""
        if self._in_title:
            self.title += data.strip()
