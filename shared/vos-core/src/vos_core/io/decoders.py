"""Video decoders behind one shape: frame by number, cheap when the numbers count up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vos_core.errors import FrameError
from vos_core.extras import require
from vos_core.io.images import to_rgb
from vos_core.types import RgbImage


class OpenCvDecoder:
    """Decodes with the FFmpeg inside OpenCV.

    `count` is what the container says, at least 1; `seconds` is its running time, 0.0 if it does not say, and `shown_at` the time
    of the frame decoded last.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise FrameError(f"{path} is not a video that can be decoded", expected="a file such as mp4, webm, avi, mov or mkv")
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._has_index = count > 0  # a bare stream has none, and what OpenCV calls a jump in it leads anywhere
        self.count = max(1, count)
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.seconds = self.count / self.fps if self.fps > 0 else 0.0
        self.shown_at = 0.0
        self._next = 0

    def read(self, index: int) -> RgbImage | None:
        """Return frame `index`, or None if the stream has none that can be decoded."""
        jumps = index < self._next or (self._has_index and index > self._next + 64)
        bgr = self._read_on(index) if not jumps or (self._has_index and self._jump(index)) else None
        if bgr is None and jumps:  # a jump that is not possible, or was none: decode from the start
            self._capture.release()
            self._capture = cv2.VideoCapture(str(self.path))
            self._next = 0
            bgr = self._read_on(index)
        if bgr is None:
            return None
        self._next = index + 1
        self.shown_at = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        return to_rgb(bgr)

    def _jump(self, index: int) -> bool:
        self._capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        self._next = index
        return int(self._capture.get(cv2.CAP_PROP_POS_FRAMES)) == index

    def _read_on(self, index: int) -> Any:
        while self._next < index:
            if not self._capture.grab():
                return None
            self._next += 1
        found, bgr = self._capture.read()
        return bgr if found else None

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


class PyAvDecoder:
    """Decodes with PyAV (extra `video`); going back means decoding from the start. Its fields are those of `OpenCvDecoder`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._av: Any = require("av", extra="video", purpose="decode video with PyAV")
        self._open()
        stream = self._container.streams.video[0]
        self.fps = float(stream.average_rate or 0)
        self.seconds = float(stream.duration * stream.time_base) if stream.duration else (self._container.duration or 0) / 1e6
        self.count = max(1, stream.frames or round(self.seconds * self.fps))
        self.shown_at = 0.0

    def _open(self) -> None:
        try:
            self._container = self._av.open(str(self.path))
            self._frames = self._container.decode(video=0)
        except (self._av.error.FFmpegError, IndexError, ValueError) as error:
            raise FrameError(f"{self.path} is not a video that can be decoded ({error})") from error
        self._next = 0

    def read(self, index: int) -> RgbImage | None:
        """Return frame `index`, or None if the stream has none that can be decoded."""
        if index < self._next:
            self._container.close()
            self._open()
        try:
            for frame in self._frames:
                self._next += 1
                if self._next == index + 1:
                    self.shown_at = frame.time or 0.0
                    return np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
        except self._av.error.FFmpegError:
            return None
        return None

    def close(self) -> None:
        """Close the file."""
        self._container.close()
