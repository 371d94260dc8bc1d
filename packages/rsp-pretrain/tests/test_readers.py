"""Reading single frames against decoding everything in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsp_pretrain.data.readers import FolderReader, VideoReader, count_frames, open_reader
from vos_core.errors import FrameError

av = pytest.importorskip("av")


def write_video(
    path: Path, frames: int = 40, *, size: tuple[int, int] = (48, 64), codec: str = "libx264", **options: str
) -> None:
    """Write a video of moving squares over noise."""
    rng = np.random.default_rng(frames)
    noise = rng.integers(0, 80, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.options = options
        for index in range(frames):
            rgb = noise.copy()
            rgb[index % 30 : index % 30 + 12, (2 * index) % 50 : (2 * index) % 50 + 12] = (200, 5 * index % 256, 90)
            for packet in stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("b_frames.mp4", "libx264", {"g": "12", "bf": "3", "b-pyramid": "normal"}),
        ("open_gop.mkv", "libx264", {"x264-params": "open-gop=1:keyint=10:bframes=3:scenecut=0"}),
        ("one_key.mp4", "libx264", {"g": "500", "bf": "2"}),
        ("simple.avi", "mpeg4", {"g": "9"}),
        ("vp9.webm", "libvpx-vp9", {"g": "8", "deadline": "realtime", "cpu-used": "8"}),
    ],
)
def test_any_frame_is_the_one_of_a_decoding_in_order(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    path = tmp_path / name
    write_video(path, codec=codec, **options)
    truth = decoded(path)
    reader = VideoReader(path)
    assert len(reader) == len(truth) == 40
    assert reader.size == (48, 64)
    rng = np.random.default_rng(0)
    for wanted in ([0], [39], [39, 0], [13, 14, 13], *(rng.integers(40, size=4).tolist() for _ in range(12)), list(range(40))):
        for index, rgb in zip(wanted, reader.read(wanted), strict=True):
            np.testing.assert_array_equal(rgb, truth[index])
    reader.close()


def test_extracted_frames(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (12, 8, 10, 3), dtype=np.uint8)
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"f{index}.png")  # f10 comes after f9
    reader = open_reader(tmp_path)
    assert isinstance(reader, FolderReader)
    assert (len(reader), reader.size) == (12, (8, 10))
    np.testing.assert_array_equal(reader.read([11, 2, 11]), pictures[[11, 2, 11]])
    Image.fromarray(pictures[0, :4]).save(tmp_path / "f5.png")
    with pytest.raises(FrameError, match=r"f5\.png is 10x4"):
        reader.read([5])


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "torn.ts"
    write_video(path, frames=60, size=(128, 128), crf="5")
    whole = path.read_bytes()
    assert count_frames(path) == 60
    path.write_bytes(whole[: len(whole) // 2])
    reader = VideoReader(path)
    assert 0 < len(reader) < 60
    with pytest.raises(FrameError, match="numbers from 0"):
        reader.read([59])
    mp4 = tmp_path / "torn.mp4"
    write_video(mp4, frames=60, size=(128, 128), crf="5", g="10")
    data = bytearray(mp4.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    mp4.write_bytes(data)
    with pytest.raises(FrameError, match=r"torn\.mp4"):
        count_frames(mp4)


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    for path, message in ((tmp_path / "a.mp4", "not a video"), (tmp_path / "b.mp4", "cannot be read"), (tmp_path, "no images")):
        with pytest.raises(FrameError, match=message):
            open_reader(path)
