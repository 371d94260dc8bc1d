from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from vos_core.errors import FrameError, MissingExtraError, OutputError, UsageError
from vos_core.io.frames import VideoFile
from vos_core.io.palette import DAVIS_PALETTE
from vos_core.io.video import OverlayWriter, paint_overlay


@pytest.mark.parametrize(("name", "codec"), [("a.webm", None), ("a.webm", "vp9"), ("a.mp4", None), ("a.mp4", "h264")])
@pytest.mark.parametrize("size", [(48, 64), (49, 65)])
def test_write_and_read_back(
    tmp_path: Path, name: str, codec: str | None, size: tuple[int, int], capfd: pytest.CaptureFixture[str]
) -> None:
    if name.endswith("mp4"):
        pytest.importorskip("av")
    labels = np.zeros(size, np.uint8)
    labels[8:40, 8:40] = 1
    with OverlayWriter(tmp_path / name, fps=12.5, codec=codec, alpha=0.5) as video:  # type: ignore[arg-type]
        for index in range(6):
            video.write(np.full((*size, 3), 40 + 20 * index, np.uint8), labels)
            assert not (tmp_path / name).exists()
    assert capfd.readouterr().err == ""
    source = VideoFile(tmp_path / name)
    assert source.fps == pytest.approx(12.5, rel=0.01)
    assert source.size == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    frames = [frame.rgb.astype(int) for frame in source]
    assert len(frames) == 6
    for index, rgb in enumerate(frames):
        value = 40 + 20 * index
        assert np.abs(rgb[44:47, 44:47] - value).max() < 20
        assert np.abs(rgb[16:32, 16:32].mean(axis=(0, 1)) - (value + DAVIS_PALETTE[1].astype(int)) / 2).max() < 20
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.webm", "a.mp4"])
def test_nothing_is_left_of_an_aborted_video(tmp_path: Path, name: str) -> None:
    if name.endswith("mp4"):
        pytest.importorskip("av")

    def interrupted() -> None:
        with OverlayWriter(tmp_path / name) as video:
            video.write(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    video = OverlayWriter(tmp_path / name)
    video.write(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8))
    video.abort()
    video.abort()
    with OverlayWriter(tmp_path / name):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.webm", "a.mp4"])
@pytest.mark.parametrize("room", [0.0, 0.3, 0.9, 0.999])
def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path, name: str, room: float) -> None:
    resource = pytest.importorskip("resource")  # a limit on file sizes fails writes as a full disk does
    if name.endswith("mp4"):
        pytest.importorskip("av")
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)

    def fill() -> None:
        with OverlayWriter(tmp_path / name) as video:
            for index in range(12):
                video.write(np.roll(noise, 7 * index, axis=1), np.zeros((120, 160), np.uint8))

    fill()
    whole = (tmp_path / name).stat().st_size
    (tmp_path / name).unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(whole * room), before[1]))
    try:
        with pytest.raises(OutputError, match=rf"/{name}"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_misuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"\.avi"):
        OverlayWriter(tmp_path / "a.avi")
    with pytest.raises(UsageError, match="h264"):
        OverlayWriter(tmp_path / "a.webm", codec="h264")
    with pytest.raises(UsageError, match="0"):
        OverlayWriter(tmp_path / "a.webm", fps=0.0)
    video = OverlayWriter(tmp_path / "a.webm", size=(16, 16))
    with pytest.raises(FrameError, match=r"16x16, its next frame 18x16"):
        video.write(np.zeros((16, 18, 3), np.uint8), np.zeros((16, 18), np.uint8))
    (tmp_path / "file").write_text("")
    blocked = OverlayWriter(tmp_path / "file" / "a.webm")
    with pytest.raises(OutputError, match="file"):
        blocked.write(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"vos-core\[video\]"):
        OverlayWriter(tmp_path / "a.mp4")


def test_paint_overlay() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    before = rgb.copy()
    labels = np.zeros((9, 11), np.uint8)
    labels[2:7, 3:8] = 3
    found = paint_overlay(rgb, labels, alpha=0.25)
    np.testing.assert_array_equal(rgb, before)
    np.testing.assert_array_equal(found[labels == 0], rgb[labels == 0])
    np.testing.assert_array_equal(found[2, 3:8], np.broadcast_to(DAVIS_PALETTE[3], (5, 3)))
    inner = (slice(3, 6), slice(4, 7))
    assert np.abs(found[inner] - (0.75 * rgb[inner].astype(float) + 0.25 * DAVIS_PALETTE[3])).max() <= 0.5
    plain = paint_overlay(rgb, labels, alpha=0.25, contour=False)
    assert np.abs(plain[2, 3:8] - (0.75 * rgb[2, 3:8].astype(float) + 0.25 * DAVIS_PALETTE[3])).max() <= 0.5


def test_paint_overlay_of_large_ids_and_wrong_size() -> None:
    rgb = np.zeros((2, 2, 3), np.uint8)
    found = paint_overlay(rgb, np.full((2, 2), 256, np.uint16), alpha=1.0)
    np.testing.assert_array_equal(found, np.broadcast_to(DAVIS_PALETTE[1], (2, 2, 3)))
    with pytest.raises(FrameError, match="3x2"):
        paint_overlay(rgb, np.zeros((2, 3), np.uint8))
