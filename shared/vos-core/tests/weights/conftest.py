from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vos_core.weights import download, registry


@dataclass
class FileServer:
    """A file on 127.0.0.1 whose server can cut connections, forget ranges, and answer with pages or errors."""

    url: str = ""
    content: bytes = b""
    etag: str = '"v1"'
    ranges: bool = True  # honour Range
    if_range: bool = True  # honour If-Range
    send_length: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes after which the next connections are cut
    statuses: list[int] = field(default_factory=list)  # errors that the next connections get
    pages: dict[str, bytes] = field(default_factory=dict)  # path with query -> page instead of the file
    asked: list[str] = field(default_factory=list)  # Range header of each request, "" if none
    paths: list[str] = field(default_factory=list)


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            server.asked.append(asked)
            server.paths.append(self.path)
            if server.statuses:
                return self._answer(server.statuses.pop(0), b"no")
            if self.path in server.pages:
                return self._answer(200, server.pages[self.path])
            same = not server.if_range or self.headers.get("If-Range", server.etag) == server.etag
            found = re.fullmatch(r"bytes=(\d+)-", asked) if server.ranges and same else None
            start, total = int(found[1]) if found else 0, len(server.content)
            if start >= total and found:
                return self._answer(416, b"", {"Content-Range": f"bytes */{total}"})
            headers = {"Content-Range": f"bytes {start}-{total - 1}/{total}"} if found else {}
            if server.etag:
                headers["ETag"] = server.etag
            return self._answer(206 if found else 200, server.content[start:], headers)

        def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            if server.send_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if status in (200, 206) and server.cuts:
                body = body[: server.cuts.pop(0)]
            self.wfile.write(body)
            self.close_connection = True

    return Handler


@pytest.fixture
def server() -> Iterator[FileServer]:
    state = FileServer(content=bytes(range(256)) * 400)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{http.server_port}/net.pth"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty registry and cache; no waiting between attempts; no proxy between here and 127.0.0.1."""
    monkeypatch.setenv("VOS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(registry, "_ENTRIES", {})
    monkeypatch.setattr(registry, "discover", dict)
    monkeypatch.setattr(download, "PAUSE", 0.0)
    registry._register_methods.cache_clear()
