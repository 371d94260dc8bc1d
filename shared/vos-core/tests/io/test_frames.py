from __future__ import annotations

import threading
import time
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vos_core.errors import FrameError
from vos_core.io.frames import (
    Camera,
    EndOfFrames,
    FrameSource,
    ImageFolder,
    VideoFile,
    natural_key,
    open_clip,
    open_frames,
    prefetch,
)
from vos_core.io.video import OverlayWriter
from vos_core.testing import needs_shared
from vos_core.types import Clip, Frame


def picture(value: int, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([np.full(size, value), y * 4, x * 4], axis=-1).astype(np.uint8)


def write_video(path: Path, count: int, size: tuple[int, int] = (48, 64)) -> None:
    with OverlayWriter(path, fps=10.0) as video:
        for index in range(count):
            video.write(np.full((*size, 3), 20 + 12 * index, np.uint8), np.zeros(size, np.uint8))


@pytest.mark.parametrize("backend", ["pillow", "opencv"])
@pytest.mark.parametrize("suffix", ["png", "bmp", "jpg", "jpeg", "webp"])
def test_formats_and_natural_order(tmp_path: Path, backend: str, suffix: str) -> None:
    for index in (10, 2, 1):
        Image.fromarray(picture(index * 10)).save(tmp_path / f"f{index}.{suffix}", quality=100)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / f".hidden.{suffix}").write_text("")
    source = ImageFolder(tmp_path, backend=backend)  # type: ignore[arg-type]
    assert list(source.names) == ["f1", "f2", "f10"]
    assert source.size == (24, 32)
    assert len(source) == 3
    for frame, value in zip(source, (10, 20, 100), strict=True):
        assert frame.rgb.dtype == np.uint8
        assert np.abs(frame.rgb.astype(int) - picture(value)).mean() < 4  # chroma is halved in JPEG and WebP
        assert np.abs(frame.rgb[..., 0].astype(int).mean() - value) < 3


@pytest.mark.parametrize("backend", ["pillow", "opencv"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
def test_every_kind_of_picture_becomes_rgb(tmp_path: Path, backend: str, mode: str) -> None:
    rgb = np.zeros((24, 32, 3), np.uint8)
    rgb[:, 16:] = 255
    if mode != "1":
        rgb[12:] = (255, 0, 0) if mode in ("RGBA", "P") else 120
    image = Image.fromarray(rgb[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(rgb).convert(mode)
    image.save(tmp_path / "a.png")
    found = ImageFolder(tmp_path, backend=backend).read(0).rgb  # type: ignore[arg-type]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, rgb)


@pytest.mark.parametrize("backend", ["pillow", "opencv"])
def test_exif_orientation_is_ignored(tmp_path: Path, backend: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(9)).save(tmp_path / "a.jpg", exif=exif)
    assert ImageFolder(tmp_path, backend=backend).read(0).rgb.shape == (24, 32, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["pillow", "opencv"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
@pytest.mark.parametrize("keep", [0.0, 0.4, 0.9])
def test_truncated_files_are_named(tmp_path: Path, backend: str, suffix: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for name in ("a", "b"):
        Image.fromarray(noise).save(tmp_path / f"{name}.{suffix}")
    path = tmp_path / f"b.{suffix}"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    source = ImageFolder(tmp_path, backend=backend)  # type: ignore[arg-type]
    source.read(0)
    with pytest.raises(FrameError, match=rf"b\.{suffix} is damaged" if keep else rf"b\.{suffix} is damaged: it is empty"):
        source.read(1)


def test_faults_of_folders(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="does not exist"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(FrameError, match="holds no images"):
        ImageFolder(tmp_path)
    with pytest.raises(FrameError, match="empty"):
        ImageFolder([])
    Image.fromarray(picture(1)).save(tmp_path / "1.png")
    Image.fromarray(picture(1, (24, 30))).save(tmp_path / "2.png")
    with pytest.raises(FrameError, match=r"2\.png is 30x24\. Expected 32x24"):
        ImageFolder(tmp_path).read(1)
    (tmp_path / "2.png").write_text("no image")
    with pytest.raises(FrameError, match=r"2\.png"):
        ImageFolder(tmp_path).read(1)
    (tmp_path / "2.png").unlink()
    source = ImageFolder([tmp_path / "1.png", tmp_path / "2.png"])
    with pytest.raises(FrameError, match=r"2\.png"):
        source.read(1)
    Image.fromarray(picture(1)).save(tmp_path / "1.jpg")
    with pytest.raises(FrameError, match="frame 1 exists more than once"):
        ImageFolder(tmp_path)


def test_natural_key() -> None:
    names = ["a10", "a2", "10", "9", "b", "a2b", ""]
    assert sorted(names, key=natural_key) == ["", "9", "10", "a2", "a2b", "a10", "b"]


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
def test_video_file(tmp_path: Path, backend: str) -> None:
    if backend == "pyav":
        pytest.importorskip("av")
    write_video(tmp_path / "a.webm", 12)
    source = VideoFile(tmp_path / "a.webm", backend=backend)  # type: ignore[arg-type]
    with closing(source):
        assert source.size == (48, 64)
        assert source.fps == pytest.approx(10.0, rel=0.01)
        assert [frame.name for frame in source] == [f"{index:05d}" for index in range(12)]
        assert len(source) == 12
        for index in (11, 3, 4, 0, 7):  # any order
            assert source.read(index).rgb.mean() == pytest.approx(20 + 12 * index, abs=4)
        with pytest.raises(EndOfFrames):
            source.read(12)


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
def test_video_faults(tmp_path: Path, backend: str) -> None:
    if backend == "pyav":
        pytest.importorskip("av")
    with pytest.raises(FrameError, match=r"no\.webm does not exist"):
        VideoFile(tmp_path / "no.webm", backend=backend)  # type: ignore[arg-type]
    (tmp_path / "text.webm").write_text("no video" * 100)
    with pytest.raises(FrameError, match=r"text\.webm"):
        VideoFile(tmp_path / "text.webm", backend=backend)  # type: ignore[arg-type]
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(FrameError, match=r"empty\.mp4"):
        VideoFile(tmp_path / "empty.mp4", backend=backend)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
def test_a_video_that_is_cut_off_is_named_at_its_last_frame(tmp_path: Path, backend: str) -> None:
    if backend == "pyav":
        pytest.importorskip("av")
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    with OverlayWriter(tmp_path / "a.webm") as video:
        for index in range(40):
            video.write(np.roll(noise, index, axis=1), np.zeros((48, 64), np.uint8))
    data = (tmp_path / "a.webm").read_bytes()
    (tmp_path / "a.webm").write_bytes(data[: len(data) // 2])
    seen: list[int] = []
    source = VideoFile(tmp_path / "a.webm", backend=backend)  # type: ignore[arg-type]
    with closing(source), pytest.raises(FrameError, match=r"a\.webm ends or is damaged at frame \d+ of 40"):
        seen.extend(frame.index for frame in prefetch(source))
    assert seen == list(range(len(seen)))
    assert 5 < len(seen) < 35
    assert decode_threads() == 0


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
def test_seeking_in_h264_gives_the_frames_of_reading_on(tmp_path: Path, backend: str) -> None:
    pytest.importorskip("av")
    write_video(tmp_path / "a.mp4", 18)
    with closing(VideoFile(tmp_path / "a.mp4", backend=backend)) as source:  # type: ignore[arg-type]
        frames = [frame.rgb for frame in source]
        assert len(frames) == 18
        for index in (17, 2, 9, 10, 0):
            np.testing.assert_array_equal(source.read(index).rgb, frames[index])


def write_h264(path: Path, shown_at: list[int], *, form: str | None = None) -> None:
    """Write a video whose frames are shown at these milliseconds, brighter from frame to frame."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, milliseconds in enumerate(shown_at):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 + 12 * index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = milliseconds, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_frames_of_variable_rate_are_no_damage_and_can_be_counted(tmp_path: Path, backend: str, suffix: str) -> None:
    write_h264(tmp_path / f"a.{suffix}", [0, 40, 400, 410, 900, 2000])  # Matroska: 51 frames to judge by its running time
    with closing(VideoFile(tmp_path / f"a.{suffix}", backend=backend)) as source:  # type: ignore[arg-type]
        assert [frame.index for frame in source] == list(range(6))
    with closing(VideoFile(tmp_path / f"a.{suffix}", backend=backend)) as source:  # type: ignore[arg-type]
        assert source.counted() == len(source) == 6


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
@pytest.mark.parametrize(("name", "count"), [("one.mp4", 1), ("bare.h264", 8)])
def test_streams_that_cannot_jump_are_read_from_the_start(tmp_path: Path, backend: str, name: str, count: int) -> None:
    write_h264(tmp_path / name, [40 * index for index in range(count)], form="h264" if name.endswith(".h264") else None)
    with closing(VideoFile(tmp_path / name, backend=backend)) as source:  # type: ignore[arg-type]
        for _ in range(2):  # the first frame was decoded when the file was opened
            assert [round(frame.rgb.mean()) for frame in source] == pytest.approx([20 + 12 * i for i in range(count)], abs=4)


def test_open_frames_and_clips(tmp_path: Path) -> None:
    Image.fromarray(picture(1)).save(tmp_path / "1.png")
    assert isinstance(open_frames(tmp_path), ImageFolder)
    assert len(open_frames(tmp_path / "1.png")) == 1
    with pytest.raises(FrameError, match="does not exist"):
        open_frames(tmp_path / "nowhere")
    assert list(open_clip(Clip("c", frames=(tmp_path / "1.png",))).names) == ["1"]
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v" / "a.webm", 3)
    assert isinstance(open_frames(tmp_path / "v" / "a.webm"), VideoFile)
    assert len(open_clip(Clip("c", video=tmp_path / "v" / "a.webm"))) == 3


def test_camera_that_is_not_there() -> None:
    with pytest.raises(FrameError, match="camera 97"):
        Camera(97)


class Counting(FrameSource):
    parallel = True

    def __init__(self, count: int, *, fail_at: int | None = None) -> None:
        self.count, self.fail_at = count, fail_at
        self.started: list[int] = []
        self.lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        return [str(index) for index in range(self.count)]

    @property
    def size(self) -> tuple[int, int]:
        return (1, 1)

    def read(self, index: int) -> Frame:
        with self.lock:
            self.started.append(index)
        time.sleep(0.003 if index % 2 else 0.0)
        if index == self.fail_at:
            raise FrameError(f"frame {index} is damaged")
        return Frame(index, str(index), np.zeros((1, 1, 3), np.uint8))


def decode_threads() -> int:
    return sum(thread.name.startswith("decode") for thread in threading.enumerate())


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("depth", [1, 4])
def test_prefetch_keeps_order_and_bound(threads: int, depth: int) -> None:
    source = Counting(15)
    for index, frame in enumerate(prefetch(source, depth=depth, threads=threads)):
        assert frame.index == index
        assert max(source.started) <= index + depth
    assert index == 14
    assert sorted(source.started) == list(range(15))
    assert decode_threads() == 0


def test_prefetch_from_the_middle() -> None:
    assert [frame.index for frame in prefetch(Counting(9), start=6)] == [6, 7, 8]
    assert list(prefetch(Counting(0))) == []


def test_prefetch_raises_when_the_frame_is_due() -> None:
    seen: list[int] = []
    with pytest.raises(FrameError, match="frame 5"):
        seen.extend(frame.index for frame in prefetch(Counting(15, fail_at=5), depth=8))
    assert seen == [0, 1, 2, 3, 4]
    assert decode_threads() == 0


def test_prefetch_stops_on_early_close() -> None:
    source = Counting(1000)
    with closing(prefetch(source, depth=3)) as frames:
        assert next(frames).index == 0
    assert decode_threads() == 0
    assert len(source.started) < 10


def test_prefetch_of_a_video(tmp_path: Path) -> None:
    write_video(tmp_path / "a.webm", 9)
    with closing(VideoFile(tmp_path / "a.webm")) as source:
        assert [frame.index for frame in prefetch(source, depth=3, threads=4)] == list(range(9))


@pytest.mark.parametrize("backend", ["pillow", "opencv"])
def test_real_clip(backend: str) -> None:
    source = ImageFolder(needs_shared("clips", "caps", "JPEGImages"), backend=backend)  # type: ignore[arg-type]
    assert source.size == (853, 480)
    assert source.names[:2] == ["frame_000000", "frame_000001"]
    assert source.read(86).rgb.shape == (853, 480, 3)
