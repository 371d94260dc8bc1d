"""Frames one by one: image folders, video files, cameras; decoded ahead on threads with bounded memory, never a whole video."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Literal

import cv2

from vos_core.errors import FrameError
from vos_core.io.decoders import OpenCvDecoder, PyAvDecoder
from vos_core.io.images import (
    IMAGE_SUFFIXES,
    ImageBackend,
    image_size,
    list_images,
    natural_key,
    read_image,
    to_rgb,
)
from vos_core.types import Clip, Frame

__all__ = [
    "IMAGE_SUFFIXES",
    "Camera",
    "EndOfFrames",
    "FrameSource",
    "ImageBackend",
    "ImageFolder",
    "VideoBackend",
    "VideoFile",
    "clip_fps",
    "image_size",
    "list_images",
    "natural_key",
    "open_clip",
    "open_frames",
    "prefetch",
    "read_image",
]


VideoBackend = Literal["opencv", "pyav"]
EARLY_END = 0.98
"""Containers estimate their length; a video that ends before this share of its frames and of its time is taken for damaged."""


class EndOfFrames(Exception):  # noqa: N818 - not an error: the stream is over
    """A stream of unknown length has no frame of that index."""


class FrameSource(ABC):
    """Frames of one clip in time order."""

    parallel = False
    """Whether `read` may be called from several threads at once to good effect."""

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """Frame names in time order; for a video file as many as its container says."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """(height, width) of the first frame in pixels."""

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def read(self, index: int) -> Frame:
        """Return frame `index`, decoded now.

        Raises:
            FrameError: it cannot be read.
            EndOfFrames: the stream ended before it.
        """

    def counted(self) -> int:
        """Return the number of frames for certain; `len` is then that number."""
        return len(self)

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while True:
            try:
                yield self.read(index)
            except (EndOfFrames, IndexError):
                return
            index += 1

    def close(self) -> None:  # noqa: B027 - most sources hold nothing
        """Free what is open."""


class ImageFolder(FrameSource):
    """Frames that are image files (jpg, jpeg, png, bmp, webp).

    Args:
        frames: a folder, read in natural order (2 before 10), or the files in time order.
        backend: `pillow` or `opencv`; both ignore an EXIF orientation.

    Raises:
        FrameError: no such folder, no images in it, or two with one stem.
    """

    parallel = True

    def __init__(self, frames: Path | Sequence[Path], *, backend: ImageBackend = "pillow") -> None:
        self.paths = list_images(frames) if isinstance(frames, Path) else list(frames)
        self.backend = backend
        self._names = [path.stem for path in self.paths]
        twice = (
            {name for name in self._names if self._names.count(name) > 1} if len(set(self._names)) < len(self._names) else set()
        )
        if twice:
            name = min(twice)
            both = ", ".join(str(path) for path in self.paths if path.stem == name)
            raise FrameError(f"frame {name} exists more than once: {both}", fix="Keep one file per frame name")
        if not self.paths:
            raise FrameError("a list of frames is empty", expected="at least one image file")
        self._size: tuple[int, int] | None = None

    @property
    def names(self) -> Sequence[str]:
        """File stems."""
        return self._names

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the first frame in pixels; reads its header only."""
        if self._size is None:
            self._size = image_size(self.paths[0])
        return self._size

    def read(self, index: int) -> Frame:
        """Return frame `index`.

        Raises:
            FrameError: the file is missing, truncated, no image, or of another size than the first frame.
        """
        path = self.paths[index]
        rgb = read_image(path, backend=self.backend)
        height, width = self.size
        if rgb.shape[:2] != (height, width):
            raise FrameError(
                f"frame {path} is {rgb.shape[1]}x{rgb.shape[0]}",
                expected=f"{width}x{height} as the clip's first frame",
                fix="Resize it or take it out of the clip",
            )
        return Frame(index, path.stem, rgb)


class VideoFile(FrameSource):
    """Frames of a video file, named 00000, 00001, ...; OpenCV turns phone videos upright, PyAV gives them as stored.

    Args:
        path: any container that the backend's FFmpeg reads.
        backend: `opencv`, or `pyav` (extra `video`).

    Raises:
        FrameError: the file is missing or holds no video.
    """

    def __init__(self, path: Path, *, backend: VideoBackend = "opencv") -> None:
        if not path.is_file():
            raise FrameError(f"video {path} does not exist", fix="Check the path")
        self.path = path
        self._decoder: OpenCvDecoder | PyAvDecoder = OpenCvDecoder(path) if backend == "opencv" else PyAvDecoder(path)
        self._lock = threading.Lock()
        self._first = self.read(0).rgb.shape[:2]

    @property
    def names(self) -> Sequence[str]:
        """Numbers with five digits, as many as the container says there are frames."""
        return [f"{index:05d}" for index in range(self._decoder.count)]

    @property
    def fps(self) -> float:
        """Frames per second, 0.0 if the container does not say."""
        return self._decoder.fps

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the first frame in pixels."""
        return (self._first[0], self._first[1])

    def read(self, index: int) -> Frame:
        """Return frame `index`; the next one is cheap, others need a seek."""
        with self._lock:
            rgb = self._decoder.read(index)
        if rgb is None:
            if index == 0 or not self._is_over(index):
                raise FrameError(
                    f"video {self.path} ends or is damaged at frame {index} of {self._decoder.count}",
                    fix="Repair it (ffmpeg -i in -c copy out) or cut it before that frame",
                )
            self._decoder.count = index
            raise EndOfFrames(f"{self.path} has {index} frames")
        self._decoder.count = max(self._decoder.count, index + 1)  # containers may also say too few
        return Frame(index, f"{index:05d}", rgb)

    def counted(self) -> int:
        """Return the number of frames, counted by decoding all of them.

        Raises:
            FrameError: the video is damaged.
        """
        for _ in self:
            pass
        return len(self)

    def _is_over(self, index: int) -> bool:
        """Say whether a stream that has no frame `index` has ended, and not broken off.

        Frames of variable rate are fewer than the container estimates from its running time, so time counts as well, the last
        frame being shown for as long as the others on average.
        """
        decoder = self._decoder
        if index >= int(decoder.count * EARLY_END) - 1:
            return True
        ends_at = decoder.shown_at * index / max(1, index - 1)
        return decoder.seconds > 0 and ends_at >= EARLY_END * decoder.seconds

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._decoder.close()


class Camera:
    """Live frames of a capture device; iterate, and stop when you like.

    Args:
        device: number of the device.

    Raises:
        FrameError: it cannot be opened.
    """

    def __init__(self, device: int = 0) -> None:
        self.device = device
        self._capture = cv2.VideoCapture(device)
        if not self._capture.isOpened():
            raise FrameError(f"camera {device} cannot be opened", fix="Check that it is connected and not in use")

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while True:
            found, bgr = self._capture.read()
            if not found:
                return
            yield Frame(index, f"{index:05d}", to_rgb(bgr))
            index += 1

    def close(self) -> None:
        """Free the device."""
        self._capture.release()


def open_frames(path: Path, *, backend: ImageBackend = "pillow", video_backend: VideoBackend = "opencv") -> FrameSource:
    """Return the frames of a folder of images, of a single image, or of a video file.

    Raises:
        FrameError: nothing is there, or it cannot be read.
    """
    if not path.exists():
        raise FrameError(f"{path} does not exist", expected="a video file, an image or a folder of frames", fix="Check the path")
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageFolder([path], backend=backend)
    return ImageFolder(path, backend=backend) if path.is_dir() else VideoFile(path, backend=video_backend)


def open_clip(clip: Clip, *, backend: ImageBackend = "pillow", video_backend: VideoBackend = "opencv") -> FrameSource:
    """Return the frames of a clip."""
    return VideoFile(clip.video, backend=video_backend) if clip.video is not None else ImageFolder(clip.frames, backend=backend)


def clip_fps(clip: Clip, *, default: float = 24.0) -> float:
    """Return the frames per second of a clip's video file, `default` for image files and where the container says nothing sound.

    Raises:
        FrameError: the video cannot be read.
    """
    if clip.video is None:
        return default
    with closing(VideoFile(clip.video)) as source:
        return source.fps if 1 <= source.fps <= 240 else default


def prefetch(source: FrameSource, *, start: int = 0, depth: int = 4, threads: int = 2) -> Generator[Frame, None, None]:
    """Yield the frames of `source` from `start` on, in order, decoded ahead on threads.

    At most `depth` decoded frames wait. Close the generator (`contextlib.closing`) to stop early: no thread is left behind. An
    error of frame i is raised when frame i is due.

    Args:
        source: what to read; image folders decode on all `threads`, streams on one.
        start: first frame.
        depth: frames decoded ahead, at least 1.
        threads: decoding threads, at least 1.
    """
    pool = ThreadPoolExecutor(threads if source.parallel else 1, thread_name_prefix="decode")
    waiting: deque[Future[Frame]] = deque()
    following = start
    try:
        while True:
            while len(waiting) < max(1, depth) and not (source.parallel and following >= len(source)):
                waiting.append(pool.submit(source.read, following))
                following += 1
            if not waiting:
                return
            try:
                frame = waiting.popleft().result()
            except EndOfFrames:
                return
            yield frame
            del frame  # else it stays alive while the next one is awaited
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
