"""Overlay videos that browsers play: WebM through OpenCV, H.264 in MP4 where PyAV is installed."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

import cv2
import numpy as np

from vos_core.errors import FrameError, OutputError, UsageError
from vos_core.extras import require
from vos_core.io.atomic import output_error, replacing
from vos_core.io.palette import DAVIS_PALETTE, Palette
from vos_core.types import LabelMap, RgbImage

VideoCodec = Literal["vp8", "vp9", "h264"]
CODECS: dict[str, tuple[VideoCodec, ...]] = {".webm": ("vp8", "vp9"), ".mp4": ("h264",)}
"""File suffix -> codecs that browsers play in it, first = default (VP8 takes a third of the time of VP9)."""
_FOURCC = {"vp8": "VP80", "vp9": "VP90"}
_STDERR_LOCK = threading.Lock()


def paint_overlay(
    rgb: RgbImage, labels: LabelMap, *, alpha: float = 0.5, contour: bool = True, palette: Palette = DAVIS_PALETTE
) -> RgbImage:
    """Return a copy of a frame with its objects tinted in their palette colours.

    Args:
        rgb: uint8 `(H, W, 3)`.
        labels: `(H, W)`; 0 stays as it is, ids above 255 take the colour of ((id - 1) mod 255) + 1.
        alpha: share of the colour inside an object, 0-1.
        contour: draw each object's inner edge in its full colour.
        palette: uint8 `(256, 3)`.

    Raises:
        FrameError: frame and labels differ in size.
    """
    if rgb.shape[:2] != labels.shape:
        raise FrameError(
            f"a frame of {rgb.shape[1]}x{rgb.shape[0]} with a label map of {labels.shape[1]}x{labels.shape[0]}",
            expected="one size",
        )
    index = labels if labels.dtype == np.uint8 else np.where(labels > 0, (labels.astype(np.int64) - 1) % 255 + 1, 0)
    inside = index > 0
    painted = rgb.copy()
    if not inside.any():
        return painted
    colours = palette[index[inside]]
    painted[inside] = np.rint(rgb[inside] * np.float32(1 - alpha) + colours * np.float32(alpha)).astype(np.uint8)
    if contour:
        edge = np.zeros(labels.shape, bool)
        edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
        edge[:, 1:] |= labels[:, :-1] != labels[:, 1:]
        edge[:-1] |= labels[:-1] != labels[1:]
        edge[1:] |= labels[:-1] != labels[1:]
        edge &= inside
        painted[edge] = palette[index[edge]]
    return painted


class OverlayWriter:
    """Writes frames with their objects tinted to a video file that appears only when it is finished.

    Use it as a context manager, or call `close` when done and `abort` when not.

    Args:
        path: `.webm` (VP8 or VP9, always available) or `.mp4` (H.264, needs the extra `video`).
        fps: frames per second.
        size: (height, width) of the frames; None = that of the first one.
        codec: one of `CODECS` for the suffix; None = the first.
        alpha: share of the colour inside an object, 0-1.
        contour: draw the objects' edges.

    Raises:
        UsageError: another suffix or codec, or fps is not above 0.
        MissingExtraError: MP4 without PyAV.

    >>> with OverlayWriter(folder / "out.webm", fps=24.0) as video:  # doctest: +SKIP
    ...     video.write(rgb, labels)
    """

    def __init__(
        self,
        path: Path,
        *,
        fps: float = 24.0,
        size: tuple[int, int] | None = None,
        codec: VideoCodec | None = None,
        alpha: float = 0.5,
        contour: bool = True,
    ) -> None:
        known = CODECS.get(path.suffix.lower())
        if known is None:
            raise UsageError(f"overlay video {path} has the suffix '{path.suffix}'", expected=".webm or .mp4", fix="Rename it")
        if codec is not None and codec not in known:
            raise UsageError(f"codec {codec} does not go into {path.name}", expected=f"one of: {', '.join(known)}")
        if not fps > 0:
            raise UsageError(f"overlay video {path} is to have {fps} frames per second", expected="a number above 0")
        self.path, self.fps, self.size, self.codec = path, fps, size, codec or known[0]
        self.alpha, self.contour = alpha, contour
        if self.codec == "h264":
            require("av", extra="video", purpose="write H.264 video (.webm needs nothing)")
        self._stack = ExitStack()
        self._encoder: _Encoder | None = None

    def write(self, rgb: RgbImage, labels: LabelMap) -> None:
        """Append one frame, tinted.

        Raises:
            FrameError: frame or labels differ in size from the first ones.
            OutputError: the file cannot be written or the codec is not available.
        """
        if self.size is None:
            self.size = (rgb.shape[0], rgb.shape[1])
        height, width = self.size
        if rgb.shape[:2] != (height, width):
            raise FrameError(f"overlay video {self.path} is {width}x{height}, its next frame {rgb.shape[1]}x{rgb.shape[0]}")
        painted = paint_overlay(rgb, labels, alpha=self.alpha, contour=self.contour)
        if height % 2 or width % 2:  # 4:2:0 colour needs even sizes
            painted = np.asarray(cv2.copyMakeBorder(painted, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE), np.uint8)
        if self._encoder is None:
            temporary = self._stack.enter_context(replacing(self.path))
            encoder = _PyAvEncoder if self.codec == "h264" else _OpenCvEncoder
            even = (painted.shape[0], painted.shape[1])
            self._encoder = encoder(temporary, shown=self.path, fps=self.fps, size=even, codec=self.codec)
        self._encoder.write(painted)

    def close(self) -> None:
        """Finish the file; without any frame no file is made.

        Raises:
            OutputError: it could not be written whole.
        """
        try:
            if self._encoder is not None:
                self._encoder.close()
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise
        self._encoder = None
        self._stack.close()

    def abort(self) -> None:
        """Remove the unfinished file."""
        try:
            if self._encoder is not None:
                self._encoder.close()
        except Exception:  # noqa: BLE001 - the reason for aborting is reported already, and the file is removed anyhow
            pass
        finally:
            self._encoder = None
            stop = _Aborted()
            with suppress(_Aborted):
                self._stack.__exit__(_Aborted, stop, None)

    def __enter__(self) -> OverlayWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


class _Aborted(Exception):  # noqa: N818 - never leaves this file
    pass


class _Encoder(Protocol):
    def write(self, rgb: RgbImage) -> None: ...

    def close(self) -> None: ...


class _OpenCvEncoder:
    def __init__(self, path: Path, *, shown: Path, fps: float, size: tuple[int, int], codec: VideoCodec) -> None:
        self._path, self._shown = path, shown
        with _silent_stderr():
            self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*_FOURCC[codec]), fps, (size[1], size[0]))
        if not self._writer.isOpened():
            found = f"video {shown} cannot be written: this OpenCV has no {codec} encoder"
            raise OutputError(found, fix='Write .mp4 instead, with: pip install "vos-core[video]"')

    def write(self, rgb: RgbImage) -> None:
        self._writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self._writer.release()
        if not _webm_is_whole(self._path):  # OpenCV does not say when a write fails
            raise OutputError(f"video {self._shown} could not be written whole", fix="Check that the disk is not full")


class _PyAvEncoder:
    def __init__(self, path: Path, *, shown: Path, fps: float, size: tuple[int, int], codec: VideoCodec) -> None:
        self._av: Any = require("av", extra="video", purpose=f"write {codec} video")
        self._path, self._broken = shown, False
        try:
            self._container = self._av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
            self._stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        except self._av.error.FFmpegError as error:
            raise OutputError(f"this PyAV cannot write H.264 video ({error})", fix="Write .webm instead") from error
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv420p"  # the one that every browser decodes
        self._stream.options = {"crf": "20", "preset": "veryfast"}

    def write(self, rgb: RgbImage) -> None:
        self._mux(self._av.VideoFrame.from_ndarray(rgb, format="rgb24"))

    def close(self) -> None:
        try:
            if not self._broken:  # after a failed write FFmpeg must not be given more: it would crash
                self._mux(None)
        finally:
            with self._explained():
                self._container.close()

    def _mux(self, frame: Any) -> None:
        with self._explained():
            for packet in self._stream.encode(frame):
                self._container.mux(packet)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._av.error.FFmpegError as error:
            self._broken = True
            raise output_error(self._path, error) from error


def _webm_is_whole(path: Path) -> bool:
    """Return whether a file has all bytes that its Matroska segment announces, which FFmpeg enters at the very end."""
    with path.open("rb") as file:
        head = file.read(4096)
    at = head.find(b"\x18\x53\x80\x67") + 4  # the segment's id, followed by a length of 8 bytes, the first of them 0x01
    announced = int.from_bytes(head[at + 1 : at + 8], "big")
    return at >= 4 and head[at : at + 1] == b"\x01" and at + 8 + announced == path.stat().st_size


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard what native code prints: OpenCV names a tag that WebM does not have, whatever its log level."""
    with _STDERR_LOCK:
        sys.stderr.flush()
        try:
            kept = os.dup(2)
        except OSError:  # no standard error at all
            yield
            return
        nothing = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nothing, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nothing)
