"""Corruptions that see more than one frame: motion blur over the last frames, and video compression."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stcn_ttt.davis_c.pixel import Picture
from vos_core.errors import FrameError
from vos_core.extras import require

FRAMES = (2, 3, 4)
CRF = (40, 45, 50)
FPS = 24


def motion_blur(frames: Iterable[Picture], strength: int) -> Iterator[Picture]:
    """Yield the weighted mean of each frame and those before it, weights 1, 2, ... with the newest largest.

    Computed in float32 on 0-255 from the oldest frame to the newest and divided at the end: exact halves are frequent, another
    order or scale would round them elsewhere.
    """
    recent: deque[Picture] = deque(maxlen=FRAMES[strength])
    for frame in frames:
        recent.append(frame)
        total: npt.NDArray[np.float32] = np.zeros(frame.shape, np.float32)
        for weight, past in enumerate(recent, start=1):
            total += np.float32(weight) * past.astype(np.float32)
        count = len(recent)
        yield np.rint(total / np.float32(count * (count + 1) / 2)).clip(0, 255).astype(np.uint8)


def compress(frames: list[Picture], strength: int, *, where: Path) -> list[bytes]:
    """Return the clip's JPEG files after H.264 with default settings, H.265 at a low quality, and JPEG at quality scale 2.

    Args:
        frames: BGR frames of one size.
        strength: 0 low, 1 med, 2 high.
        where: folder the clip comes from, for error messages.

    Raises:
        MissingExtraError: PyAV is not installed.
        FrameError: a coder returned another number of frames.
    """
    height, width = frames[0].shape[:2]
    first = _coded(_encode(frames, "libx264", {}, width, height))
    second = _coded(_encode(first, "libx265", {"crf": str(CRF[strength]), "x265-params": "log-level=none"}, width, height))
    if len(second) != len(frames):
        raise FrameError(f"{where}: {len(second)} frames came back from the coder", expected=f"{len(frames)}")
    return [_jpeg(np.ascontiguousarray(frame[:height, :width])) for frame in second]


def pyav() -> Any:
    """Return PyAV.

    Raises:
        MissingExtraError: it is not installed.
    """
    return require("av", extra="video", purpose="compress video (crf_compression)")


def _encode(frames: list[Picture], codec: str, options: dict[str, str], width: int, height: int) -> bytes:
    av = pyav()
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as container:
        stream = container.add_stream(codec, rate=Fraction(FPS), options=options)
        stream.width, stream.height = width + width % 2, height + height % 2  # 4:2:0 needs even sides
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="bgr24")))
        container.mux(stream.encode(None))
    return target.getvalue()


def _coded(data: bytes) -> list[Picture]:
    av = pyav()
    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def _jpeg(frame: Picture) -> bytes:
    """Return the frame as ffmpeg's JPEG writer makes it at quality scale 2."""
    av = pyav()
    coder = av.CodecContext.create("mjpeg", "w")
    coder.width, coder.height = frame.shape[1], frame.shape[0]
    coder.pix_fmt = "yuvj420p"
    coder.time_base = Fraction(1, FPS)
    coder.options = {"qmin": "2", "qmax": "2"}
    packets = coder.encode(av.VideoFrame.from_ndarray(frame, format="bgr24").reformat(format="yuvj420p"))
    packets += coder.encode(None)
    return b"".join(bytes(packet) for packet in packets)
