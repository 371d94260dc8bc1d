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
    """Decodes with the FFmpeg inside OpenCV; `count` is what the container says, at least 1."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise FrameError(f"{path} is not a video that can be decoded", expected="a file such as mp4, webm, avi, mov or mkv")
        self.count = max(1, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self._next = 0

    def read(self, index: int) -> RgbImage | None:
        """Return frame `index`, or None if the stream has none that can be decoded."""
        if index != self._next and not self._seek(index):
            return None
        found, bgr = self._capture.read()
        if not found:
            return None
        self._next = index + 1
        return to_rgb(bgr)

    def _seek(self, index: int) -> bool:
        if index < self._next or index > self._next + 64:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, index)
            if int(self._capture.get(cv2.CAP_PROP_POS_FRAMES)) == index:
                self._next = index
                return True
            # The container cannot seek to a frame: decode from the start.
            self._capture.release()
            self._capture = cv2.VideoCapture(str(self.path))
            self._next = 0
        while self._next < index:
            if not self._capture.grab():
                return False
            self._next += 1
        return True

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


class PyAvDecoder:
    """Decodes with PyAV (extra `video`); going back means decoding from the start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._av: Any = require("av", extra="video", purpose="decode video with PyAV")
        self._open()
        stream = self._container.streams.video[0]
        self.fps = float(stream.average_rate or 0)
        seconds = float(stream.duration * stream.time_base) if stream.duration else (self._container.duration or 0) / 1e6
        self.count = max(1, stream.frames or round(seconds * self.fps))

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
                    return np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
        except self._av.error.FFmpegError:
            return None
        return None

    def close(self) -> None:
        """Close the file."""
        self._container.close()
