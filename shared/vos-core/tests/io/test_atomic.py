from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from vos_core.errors import OutputError
from vos_core.io import atomic
from vos_core.io.atomic import replacing, write_bytes, write_json, write_text


def test_writers_make_folders_and_replace(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_bytes(path, b"old")
    write_text(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    write_json(path.with_suffix(".json"), {"é": [1, None]})
    text = path.with_suffix(".json").read_text(encoding="utf-8")
    assert json.loads(text) == {"é": [1, None]}
    assert "é" in text
    assert text.endswith("}\n")
    assert sorted(file.name for file in path.parent.iterdir()) == ["c.json", "c.txt"]


def test_results_have_the_mode_of_ordinary_files(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_bytes(b"")
    write_bytes(tmp_path / "a", b"")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)


def test_a_block_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")

    def stop() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            assert temporary.parent == path.parent
            assert temporary.suffix == ".bin"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("code", "message", "fix"),
    [
        (errno.ENOSPC, "disk is full", "resume"),
        (errno.EDQUOT, "quota", "resume"),
        (errno.EROFS, "read-only", "--output"),
        (errno.EACCES, "permission denied", "permissions"),
        (errno.EPERM, "permission denied", "permissions"),
        (errno.EIO, os.strerror(errno.EIO), "output folder"),
    ],
)
@pytest.mark.parametrize("step", ["mkstemp", "write", "replace"])
def test_every_failure_is_explained_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str, fix: str, step: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    if step == "mkstemp":
        monkeypatch.setattr(atomic.tempfile, "mkstemp", fail)
    else:
        monkeypatch.setattr(Path, "write_bytes" if step == "write" else "replace", fail)
    with pytest.raises(OutputError, match=message) as caught:
        write_bytes(tmp_path / "a.bin", b"data")
    assert str(tmp_path / "a.bin") in str(caught.value)
    assert fix in caught.value.fix
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"a part of its path is a file|exists"):
        write_bytes(tmp_path / "file" / "a.bin", b"")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OutputError, match="folder"):
        write_bytes(tmp_path / "folder", b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
