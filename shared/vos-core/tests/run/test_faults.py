"""What happens to a run in a bad world: kills, signals, full disks, read-only folders. Real processes, real files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from vos_core.baseline.copy import METHOD as COPY
from vos_core.errors import OutputError
from vos_core.io.atomic import output_error
from vos_core.run import sinks
from vos_core.run.runner import run_method

RUN = (
    sys.executable,
    "-c",
    "from vos_core.cli.main import main; main()",
    "run",
    "--method",
    "flow",
    "--device",
    "cpu",
    "--set",
    "finest_scale=1",
    "--set",
    "consistency=1",
    "--threads",
    "1",
)


def tree(folder: Path) -> dict[str, str]:
    """Every file below `folder` but run.json, hidden ones as well -> its hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def command(data: Path, output: Path, *more: str) -> list[str]:
    return [*RUN, "--clips", str(data), "--output", str(output), *more]


def run(data: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(data, output, *more), capture_output=True, text=True, timeout=120, check=False)


def start_until(data: Path, output: Path, masks: int, *more: str) -> subprocess.Popen[str]:
    """Start a run and return it once it has written `masks` masks."""
    process = subprocess.Popen(
        command(data, output, *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background jobs ignore it
    )
    deadline = time.monotonic() + 60
    while len(list(output.glob("*/[!.]*.png"))) < masks:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return process


@pytest.fixture
def data(make_clip, tmp_path: Path) -> Path:
    """Three clips, large enough that a signal meets them at work."""
    for name in ("a", "b", "c"):
        make_clip(name, frames=24, size=(240, 320), births={1: 0, 6: 5})
    return tmp_path / "data"


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_kill_9_and_rerun_give_the_bytes_of_an_unbroken_run(data: Path, tmp_path: Path, workers: str) -> None:
    assert run(data, tmp_path / "whole").returncode == 0
    output = tmp_path / "broken"
    for masks in (5, 30):  # in the middle of the first clip, and of a later one
        process = start_until(data, output, masks, "--processes", workers)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (output / "run.json").exists()
        for path in output.glob("*/[!.]*.png"):
            assert cv2.imread(str(path)) is not None, f"{path} is neither whole nor absent"
    again = run(data, output, "--processes", workers)
    assert again.returncode == 0, again.stderr
    assert tree(output) == tree(tmp_path / "whole")
    assert len(json.loads((output / "run.json").read_text())["clips"]) == 3


@pytest.mark.parametrize(
    ("number", "workers"),
    [(signal.SIGINT, "1"), (signal.SIGTERM, "1"), pytest.param(signal.SIGINT, "2", marks=pytest.mark.slow)],
)
def test_a_signal_stops_tidily_and_says_how_to_resume(data: Path, tmp_path: Path, number: int, workers: str) -> None:
    output = tmp_path / "out"
    process = start_until(data, output, 30, "--processes", workers)
    os.killpg(process.pid, number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Run the same command again to resume" in stderr
    assert "Traceback" not in stderr
    assert not list(output.glob("*/.*")), "temporary files are gone"
    before = {clip["name"] for clip in json.loads((output / "run.json").read_text())["clips"] if clip["status"] == "done"}
    stamps = {path: path.stat().st_mtime_ns for name in before for path in (output / name).iterdir()}
    assert run(data, output).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps, "finished clips were not run again"


def test_bad_clips_are_named_and_the_others_done(data: Path, tmp_path: Path, make_clip) -> None:
    truncated = next((data / "JPEGImages" / "a").glob("00007*"))
    truncated.write_bytes(truncated.read_bytes()[:2000])
    mask = data / "Annotations" / "b" / "00000.png"
    cv2.imwrite(str(mask), np.ones((60, 80), np.uint8))
    make_clip("rgb", size=(240, 320))
    colours = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    cv2.imwrite(str(data / "Annotations" / "rgb" / "00000.png"), colours)
    (data / "JPEGImages" / "empty").mkdir()
    found = run(data, tmp_path / "out")
    assert found.returncode == 1
    for expected in ("00007.jpg", f"{mask} is 80x60", str(data / "Annotations" / "rgb" / "00000.png"), "empty"):
        assert expected in found.stderr
    assert "Traceback" not in found.stderr
    assert "1 of 4 clips done" in found.stdout
    assert len(list((tmp_path / "out" / "c").iterdir())) == 24


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_fills_up(data: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(small)], check=False).returncode
    ):
        pytest.skip("a small tmpfs cannot be mounted here")
    try:
        found = run(data, small / "out")
        assert found.returncode == 1
        assert "the disk is full" in found.stderr
        assert "resume" in found.stderr
        assert "Traceback" not in found.stderr
        for path in (small / "out").glob("*/[!.]*.png"):
            assert cv2.imread(str(path)) is not None
        assert subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=False).returncode == 0
        assert run(data, small / "out").returncode == 0
        assert run(data, tmp_path / "whole").returncode == 0
        assert tree(small / "out") == tree(tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_disk_that_is_full_for_masks_only_fails_the_clip(make_clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *args: object, **options: object) -> None:
        raise output_error(path, OSError(28, "No space left on device"))

    monkeypatch.setattr(sinks, "write_mask", full)
    record = run_method(COPY, [make_clip(frames=40)], output=tmp_path / "out")
    assert record.clips[0].status == "failed"
    assert "the disk is full" in str(record.clips[0].error)


def test_an_output_that_cannot_be_written(make_clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a part of its path is a file"):
        run_method(COPY, [make_clip()], output=tmp_path / "file" / "out")

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)  # root may write anywhere, so the system's refusal is played
    with pytest.raises(OutputError, match=r"permission denied.*--output"):
        run_method(COPY, [make_clip("b")], output=tmp_path / "out")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clip(make_clip, tmp_path: Path) -> None:
    peaks = {}
    for frames in (200, 2000):
        clip = make_clip(f"n{frames}", frames=frames, size=(120, 160))
        video = tmp_path / f"only{frames}"
        shutil.copytree(clip.frames[0].parent, video)
        found = subprocess.run(
            [
                *RUN,
                "--video",
                str(video),
                "--mask",
                str(clip.annotations["00000"]),
                "-o",
                str(tmp_path / f"out{frames}"),
                "--json",
            ],
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        )
        (record,) = json.loads(found.stdout)["clips"]
        assert record["frames"] == frames
        peaks[frames] = record["peak_memory_bytes"]
    assert peaks[2000] <= 1.05 * peaks[200], peaks
