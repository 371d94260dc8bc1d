"""Single frames of a video by number: decoded on the fly with PyAV, or from a folder of extracted frames."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vos_core.errors import FrameError
from vos_core.extras import require
from vos_core.io.images import image_size, list_images, read_image
from vos_core.types import RgbImage

_INDEXES = 256  # packet tables kept per process: a training set of few, long videos is scanned once


class FrameReader(Protocol):
    """Random access to the frames of one video; `size` is (height, width)."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        ...

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> list[RgbImage]:
        """Return these frames, uint8 `(H, W, 3)`, in the order asked for; an index may occur more than once."""
        ...

    def close(self) -> None:
        """Free what is open."""
        ...


def open_reader(path: Path) -> FrameReader:
    """Return the reader of a video file or of a folder of frames.

    Raises:
        FrameError: nothing that can be read.
        MissingExtraError: a video file without PyAV.
    """
    return FolderReader(path) if path.is_dir() else VideoReader(path)


class FolderReader:
    """Frames extracted to image files, in natural order of their names.

    Raises:
        FrameError: no such folder, no image in it, or (from `read`) a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = list_images(folder)
        self.size = image_size(self._paths[0])

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, indices: Sequence[int]) -> list[RgbImage]:
        """See `FrameReader.read`."""
        found = {index: read_image(self._paths[index]) for index in dict.fromkeys(indices)}
        for index, rgb in found.items():
            if rgb.shape[:2] != self.size:
                raise FrameError(
                    f"frame {self._paths[index]} is {rgb.shape[1]}x{rgb.shape[0]}",
                    expected=f"{self.size[1]}x{self.size[0]}, the size of the first frame of its folder",
                )
        return [found[index] for index in indices]

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True, slots=True)
class PacketIndex:
    """When the frames of a stream are shown and where decoding can begin.

    Args:
        times: presentation times in ascending order, in the stream's time base: the i-th is that of frame i. Empty if the
            container does not say them, or says one twice: then frames can only be counted from the start.
        keys: presentation times of key frames, ascending.
        count: number of packets with a picture.
    """

    times: tuple[int, ...]
    keys: tuple[int, ...]
    count: int


class VideoReader:
    """Frames of a video file; decodes from the nearest key frame and skips pictures that nothing else is predicted from.

    One thread: loaders run one reader per process.

    Args:
        path: video file.

    Raises:
        FrameError: no video that can be decoded.
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._av: Any = require("av", extra="video", purpose="decode video")
        try:
            stamp = path.stat()
        except OSError as error:
            raise FrameError(f"video {path} cannot be read ({error.strerror})", fix="Check that it exists") from error
        self._index = _packet_index(path, stamp.st_mtime_ns, stamp.st_size)
        if not self._index.count:
            raise FrameError(f"video {path} has no frame", fix="Download it again, or leave it out")
        self._container: Any = None
        self._open()
        context = self._stream.codec_context
        self.size: tuple[int, int] = (context.height, context.width)

    def __len__(self) -> int:
        return self._index.count

    def read(self, indices: Sequence[int]) -> list[RgbImage]:
        """See `FrameReader.read`.

        Raises:
            FrameError: an index beyond the end, or a frame that cannot be decoded.
        """
        wanted = sorted(set(indices))
        if wanted and not 0 <= wanted[0] <= wanted[-1] < len(self):
            raise FrameError(f"frames {wanted} of {self.path}", expected=f"numbers from 0 to {len(self) - 1}")
        found: dict[int, RgbImage] = {}
        try:
            if self._index.times:
                for group in self._groups(wanted):
                    self._read_group(group, found)
            else:
                self._count_to(wanted, found)
        except self._av.error.FFmpegError as error:
            raise self._damaged(wanted, str(error)) from error
        missing = [index for index in wanted if index not in found]
        if missing:
            raise self._damaged(missing, "they are not in the stream")
        return [found[index] for index in indices]

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def _open(self) -> None:
        self.close()
        self._container, self._stream = _open_stream(self._av, self.path)
        self._stream.codec_context.thread_count = 1

    def _groups(self, wanted: Sequence[int]) -> Iterator[list[int]]:
        """Yield frames that are cheapest to decode in one go: those before the next key frame after the first."""
        group: list[int] = []
        for index in wanted:
            if group and self._key_of(index) > self._index.times[group[-1]]:
                yield group
                group = []
            group.append(index)
        if group:
            yield group

    def _key_of(self, index: int) -> int:
        """Return the time of the last key frame that frame `index` can be decoded from."""
        place = bisect.bisect_right(self._index.keys, self._index.times[index]) - 1
        return self._index.keys[max(0, place)]

    def _read_group(self, group: Sequence[int], found: dict[int, RgbImage]) -> None:
        times = {self._index.times[index]: index for index in group}
        place = max(0, bisect.bisect_right(self._index.keys, min(times)) - 1)
        while True:
            # A container may land behind the key frame that was asked for; the one before is tried then.
            if place <= 0:
                self._open()
            else:
                self._container.seek(self._index.keys[place], stream=self._stream, backward=True, any_frame=False)
            if self._decode(times, found) or place <= 0:
                return
            place -= 1

    def _decode(self, times: dict[int, int], found: dict[int, RgbImage]) -> bool:
        """Decode until all of `times` are found; False if the stream began behind the first of them."""
        context = self._stream.codec_context
        last, first = max(times), min(times)
        left = set(times)
        begun = False
        for packet in self._container.demux(self._stream):
            # A picture that no other refers to is decoded only if it is wanted: the others are not changed by that.
            context.skip_frame = "DEFAULT" if packet.pts is None or packet.pts in left else "NONREF"
            for frame in packet.decode():
                if not begun and frame.pts is not None and frame.pts > first and not frame.key_frame:
                    continue  # a leading picture of the key frame behind
                if not begun and frame.pts is not None and frame.pts > first:
                    return False
                begun = True
                if frame.pts in left:
                    found[times[frame.pts]] = _rgb(frame)
                    left.discard(frame.pts)
                if not left:
                    return True
                if frame.pts is not None and frame.pts > last:
                    return True  # what is missing cannot come any more
        return True

    def _count_to(self, wanted: Sequence[int], found: dict[int, RgbImage]) -> None:
        self._open()
        left = set(wanted)
        for index, frame in enumerate(self._container.decode(self._stream)):
            if index in left:
                found[index] = _rgb(frame)
                left.discard(index)
                if not left:
                    return

    def _damaged(self, indices: Sequence[int], why: str) -> FrameError:
        numbers = ", ".join(map(str, indices))
        return FrameError(f"frames {numbers} of {self.path} cannot be decoded: {why}", fix="Download it again, or leave it out")


def count_frames(path: Path) -> int:
    """Decode a whole video and return how many frames it has: the only proof that it can be read.

    Raises:
        FrameError: it cannot be decoded to its end, or has no frame.
    """
    av: Any = require("av", extra="video", purpose="decode video")
    announced = _packet_index.__wrapped__(path, 0, 0).count
    container, stream = _open_stream(av, path)
    count = 0
    try:
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"err_detect": "explode"}  # else damaged pictures are painted over and pass for whole
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise FrameError(f"video {path} has a damaged frame {count}", fix="Download it again")
            count += 1
    except av.error.FFmpegError as error:
        raise FrameError(f"video {path} cannot be decoded beyond frame {count} ({error})", fix="Download it again") from error
    finally:
        container.close()
    if count < announced:
        raise FrameError(f"video {path} has {count} frames that can be decoded", expected=f"{announced}, as its packets say")
    if not count:
        raise FrameError(f"video {path} has no frame", fix="Download it again")
    return count


def _open_stream(av: Any, path: Path) -> tuple[Any, Any]:
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise FrameError(f"{path} is not a video that can be decoded ({error})", fix="Download it again") from error
    if not container.streams.video:
        container.close()
        raise FrameError(f"{path} has no video stream", fix="Leave it out")
    return container, container.streams.video[0]


@functools.lru_cache(maxsize=_INDEXES)
def _packet_index(path: Path, changed: int, size: int) -> PacketIndex:
    """Return the packet table of a file without decoding it; `changed` and `size` make a replaced file a new one."""
    av: Any = require("av", extra="video", purpose="decode video")
    container, stream = _open_stream(av, path)
    times: list[int | None] = []
    keys: list[int] = []
    try:
        with suppress(av.error.FFmpegError):  # a torn tail: what came before can be used, decoding says where it ends
            for packet in container.demux(stream):
                if packet.size == 0 or packet.is_discard:
                    continue
                times.append(packet.pts)
                if packet.is_keyframe and packet.pts is not None:
                    keys.append(packet.pts)
    finally:
        container.close()
    known = [time for time in times if time is not None]
    exact = len(known) == len(times) == len(set(known)) and bool(keys) and min(keys) <= min(known, default=0)
    return PacketIndex(tuple(sorted(known)) if exact else (), tuple(sorted(keys)), len(times))


def _rgb(frame: Any) -> RgbImage:
    return np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
