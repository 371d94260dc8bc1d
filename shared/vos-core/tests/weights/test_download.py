from __future__ import annotations

import errno
import hashlib
import json
import shutil
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from vos_core.errors import OutputError, WeightsError
from vos_core.weights import download, web_page
from vos_core.weights.download import ATTEMPTS, fetch


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "net.pth"


def part_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_part(target: Path, data: bytes, *, url: str, validator: str = '"v1"', total: int | None = None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part_of(target).write_bytes(data)
    note = {"url": url, "validator": validator, "total": total}
    target.with_name(f"{target.name}.part.json").write_text(json.dumps(note))


def assert_whole(target: Path, content: bytes) -> None:
    assert target.read_bytes() == content
    assert sorted(path.name for path in target.parent.iterdir()) == [target.name]


class TestResume:
    def test_downloads_a_file(self, server, target):
        fetch(server.url, target, size=len(server.content), sha256=digest(server.content), progress=False)
        assert_whole(target, server.content)

    def test_goes_on_after_cut_connections(self, server, target):
        server.cuts = [30000, 20000]
        fetch(server.url, target, sha256=digest(server.content), progress=False)
        assert_whole(target, server.content)
        assert server.asked == ["", "bytes=30000-", "bytes=50000-"]

    def test_goes_on_in_the_next_run(self, server, target):
        server.cuts = [1000] + [0] * ATTEMPTS
        with pytest.raises(WeightsError, match=r"failed 5 times in a row: .*cut after 1000 of 102400 bytes"):
            fetch(server.url, target, progress=False)
        assert not target.exists()
        assert part_of(target).stat().st_size == 1000
        server.cuts = []
        fetch(server.url, target, progress=False)
        assert_whole(target, server.content)
        assert server.asked[-1] == "bytes=1000-"

    def test_starts_over_if_the_server_knows_no_ranges(self, server, target):
        server.ranges, server.cuts = False, [500]
        fetch(server.url, target, progress=False)
        assert_whole(target, server.content)

    def test_gives_up_if_the_server_cuts_and_knows_no_ranges(self, server, target):
        server.ranges, server.cuts = False, [500] * 50
        with pytest.raises(WeightsError, match="5 times in a row"):
            fetch(server.url, target, progress=False)
        assert len(server.asked) == ATTEMPTS

    @pytest.mark.parametrize("if_range", [True, False])
    def test_never_joins_parts_of_two_versions(self, server, target, if_range):
        server.if_range = if_range
        write_part(target, b"old" * 100, url=server.url, validator='"v0"')
        fetch(server.url, target, progress=False)
        assert_whole(target, server.content)
        assert server.asked == (["bytes=300-"] if if_range else ["bytes=300-", ""])

    def test_never_joins_parts_of_two_addresses(self, server, target):
        write_part(target, b"old" * 100, url="https://example.org/other")
        fetch(server.url, target, progress=False)
        assert_whole(target, server.content)

    def test_part_without_a_note_is_not_trusted(self, server, target):
        target.parent.mkdir(parents=True)
        part_of(target).write_bytes(b"what is this")
        fetch(server.url, target, progress=False)
        assert_whole(target, server.content)

    def test_part_larger_than_the_size(self, server, target):
        write_part(target, server.content + b"more", url=server.url)
        fetch(server.url, target, size=len(server.content), progress=False)
        assert_whole(target, server.content)
        assert server.asked == [""]

    def test_part_larger_than_the_file_of_unknown_size(self, server, target):
        write_part(target, server.content + b"more", url=server.url)
        fetch(server.url, target, progress=False)
        assert_whole(target, server.content)

    def test_part_that_is_already_whole(self, server, target):
        write_part(target, server.content, url=server.url)
        fetch(server.url, target, sha256=digest(server.content), progress=False)
        assert_whole(target, server.content)
        assert server.asked == [f"bytes={len(server.content)}-"]

    def test_busy_server_is_asked_again(self, server, target):
        server.statuses = [503, 429, 500]
        fetch(server.url, target, progress=False)
        assert_whole(target, server.content)

    def test_no_length_from_the_server(self, server, target):
        server.send_length = False
        fetch(server.url, target, progress=False)
        assert_whole(target, server.content)

    def test_no_length_from_the_server_and_cut(self, server, target):
        server.send_length, server.cuts = False, [700]
        fetch(server.url, target, size=len(server.content), progress=False)
        assert_whole(target, server.content)


class TestRefusals:
    def test_wrong_hash(self, server, target):
        with pytest.raises(WeightsError, match=f"has sha256 {digest(server.content)}. Expected 0000") as caught:
            fetch(server.url, target, sha256="0" * 64, changed="Ask the authors", progress=False)
        assert server.url in str(caught.value)
        assert "Ask the authors" in str(caught.value)
        assert not list(target.parent.iterdir())

    def test_wrong_size_is_seen_before_the_download(self, server, target):
        with pytest.raises(WeightsError, match=r"has 102400 bytes. Expected 5"):
            fetch(server.url, target, size=5, progress=False)
        assert not list(target.parent.iterdir())

    def test_too_many_bytes_without_a_length(self, server, target):
        server.send_length = False
        with pytest.raises(WeightsError, match=r"has 102400 bytes. Expected 5"):
            fetch(server.url, target, size=5, progress=False)
        assert not list(target.parent.iterdir())

    @pytest.mark.parametrize("start", [b"<!DOCTYPE html>", b"\n <HTML>", b"\xef\xbb\xbf<!doctype HTML>"])
    def test_web_page_instead_of_a_file(self, server, target, start):
        server.content = start + b"<head><title>Please sign in</title></head><body>" + b"x" * 5000
        with pytest.raises(WeightsError) as caught:
            fetch(server.url, target, page="https://example.org/page", progress=False)
        assert "a web page ('Please sign in')" in str(caught.value)
        assert "Open https://example.org/page in a browser" in str(caught.value)
        assert f"save the file as {target}" in str(caught.value)
        assert not list(target.parent.iterdir())

    @pytest.mark.parametrize("status", [403, 404, 410])
    def test_not_there(self, server, target, status):
        server.statuses = [status]
        with pytest.raises(WeightsError, match=f"{server.url} answers {status} .*save the file as"):
            fetch(server.url, target, progress=False)
        assert len(server.asked) == 1

    def test_no_server(self, target):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound and not listening
            url = f"http://127.0.0.1:{taken.getsockname()[1]}/net.pth"
            with pytest.raises(WeightsError, match=r"no connection \(.*refused.*Check the network.*save the file by hand"):
                fetch(url, target, progress=False)

    def test_empty_file(self, server, target):
        server.content = b""
        with pytest.raises(WeightsError, match="the server sent an empty file"):
            fetch(server.url, target, progress=False)

    def test_not_enough_space_is_seen_before_the_download(self, server, target, monkeypatch):
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 1000))
        with pytest.raises(OutputError, match=r"102400 bytes are needed and 1000 are free. Free space there, or set VOS_CACHE"):
            fetch(server.url, target, progress=False)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_disk_full_during_the_download(self, server, target):
        target.parent.mkdir(parents=True)
        part_of(target).symlink_to("/dev/full")
        target.with_name(f"{target.name}.part.json").write_text(json.dumps({"url": server.url}))
        with pytest.raises(OutputError, match=r"the disk is full. Free space there, or set VOS_CACHE"):
            fetch(server.url, target, progress=False)

    def test_folder_that_cannot_be_made(self, server, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(OutputError, match=r"cannot write .*file/net.pth.part"):
            fetch(server.url, tmp_path / "file" / "net.pth", progress=False)


class TestGoogleDrive:
    FORM = b"""<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
        <form id="other" action="/wrong"><input type="hidden" name="x" value="y"></form>
        <form id="download-form" action="/really?a=b" method="get"><input type="submit" value="Download anyway"/>
        <input type="hidden" name="id" value="FILE-1"><input type="hidden" name="confirm" value="t">
        <input type="hidden" name="uuid" value="12&amp;3"></form></body></html>"""
    ASKED = "/download?id=FILE-1&export=download&confirm=t"
    CONFIRMED = "/really?a=b&id=FILE-1&confirm=t&uuid=12%263"

    @pytest.fixture
    def drive(self, server, monkeypatch):
        monkeypatch.setattr(web_page, "DRIVE_DOWNLOAD", server.url.replace("net.pth", "download"))
        return server

    def test_file_that_comes_at_once(self, drive, target):
        fetch("gdrive:FILE-1", target, progress=False)
        assert_whole(target, drive.content)
        assert drive.paths == [self.ASKED]

    def test_confirmation_form_is_followed(self, drive, target):
        drive.pages[self.ASKED] = self.FORM
        fetch("gdrive:FILE-1", target, progress=False)
        assert_whole(target, drive.content)
        assert drive.paths == [self.ASKED, self.CONFIRMED]

    def test_resumes_behind_the_form(self, drive, target):
        drive.pages[self.ASKED] = self.FORM
        write_part(target, drive.content[:3000], url=web_page.drive_url("FILE-1"))
        fetch("gdrive:FILE-1", target, sha256=digest(drive.content), progress=False)
        assert_whole(target, drive.content)
        assert drive.asked == ["bytes=3000-", "bytes=3000-"]

    def test_form_that_leads_to_itself(self, drive, target):
        drive.pages[self.ASKED] = drive.pages[self.CONFIRMED] = self.FORM
        with pytest.raises(WeightsError, match="Virus scan warning"):
            fetch("gdrive:FILE-1", target, progress=False)
        assert len(drive.paths) == 3

    def test_quota_page_names_the_page_to_open(self, drive, target):
        drive.pages[self.ASKED] = b"<html><head><title>Google Drive - Quota exceeded</title></head></html>"
        with pytest.raises(WeightsError, match=r"Quota exceeded.*Open https://drive.google.com/file/d/FILE-1/view in a browser"):
            fetch("gdrive:FILE-1", target, page="https://drive.google.com/file/d/FILE-1/view", progress=False)

    def test_form_that_leads_out_of_the_web(self):
        html = '<form id="download-form" action="file:///etc/passwd"></form>'
        assert web_page.WebPage(html, url="https://example.org").form_url is None


class TestProgress:
    def test_bar_goes_to_stderr(self, server, target, capsys):
        fetch(server.url, target, label="my net")
        out, err = capsys.readouterr()
        assert out == ""
        assert "my net" in err

    def test_pauses_grow(self, server, target, monkeypatch):
        waited: list[float] = []
        monkeypatch.setattr(download, "PAUSE", 1.0)
        monkeypatch.setattr(download.time, "sleep", waited.append)
        server.statuses = [503] * ATTEMPTS
        with pytest.raises(WeightsError, match="the server answers 503"):
            fetch(server.url, target, progress=False)
        assert waited == [1.0, 2.0, 4.0, 8.0]

    def test_full_quota_is_named(self, server, target, monkeypatch):
        def full(*_: object) -> None:
            raise OSError(errno.EDQUOT, "quota")

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(OutputError, match="the disk is full"):
            fetch(server.url, target, progress=False)
