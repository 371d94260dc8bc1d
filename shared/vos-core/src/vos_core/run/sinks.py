"""Where results go while a clip runs: mask files, an overlay video, soft probabilities; written behind on threads."""

from __future__ import annotations

import glob
import io
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from vos_core.errors import MaskError, OutputError
from vos_core.io.atomic import output_error, write_bytes
from vos_core.io.masks import object_id_shift, write_mask
from vos_core.types import Clip, Frame, FrameResult, LabelMap

if TYPE_CHECKING:
    from vos_core.io.video import OverlayWriter


class Sink(Protocol):
    """Receives every result of one clip, in time order."""

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Take one result; may return before it is on disk, and raises what an earlier write met."""
        ...

    def close(self) -> None:
        """Finish: everything is on disk when this returns."""
        ...

    def abort(self) -> None:
        """Stop early: drop what is waiting, leave only whole files."""
        ...


class WriteBehind:
    """Runs write jobs on threads; at most `depth` wait, and the first error comes out of the next call.

    Args:
        threads: number of writer threads.
        depth: jobs that may wait; a further `submit` blocks until the oldest is done.
    """

    def __init__(self, *, threads: int = 2, depth: int = 8) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="vos-write")
        self._waiting: deque[Future[None]] = deque()
        self._depth = depth

    def submit(self, job: Callable[[], None]) -> None:
        """Queue `job`; raises the error of an earlier job."""
        while self._waiting and (len(self._waiting) >= self._depth or self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(job))

    def close(self) -> None:
        """Wait for all jobs; raises the first error."""
        while self._waiting:
            self._waiting.popleft().result()
        self._pool.shutdown()

    def abort(self) -> None:
        """Drop jobs that have not begun and wait for those that have; errors are dropped as well."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._waiting.clear()


class _QueuedSink:
    """A sink whose files are written on threads: what `write` queued is on disk when `close` returns."""

    _behind: WriteBehind

    def close(self) -> None:
        """Wait until all files are on disk."""
        self._behind.close()

    def abort(self) -> None:
        """Stop; files already begun are finished."""
        self._behind.abort()


class MaskSink(_QueuedSink):
    """Writes `<folder>/<frame name>.png` with original ids, atomically.

    Args:
        folder: the clip's result folder; PNG files in it, whole or temporary, are left from an earlier run and removed first.
        clip: `outputs` restricts which frames are written, `binary_output` writes 0/255.
        palette: uint8 `(256, 3)`, or None for the DAVIS colours.
        threads: writer threads.

    Raises:
        OutputError: what is left cannot be removed.
    """

    def __init__(self, folder: Path, clip: Clip, *, palette: npt.NDArray[np.uint8] | None = None, threads: int = 2) -> None:
        self.folder, self.clip, self.palette = folder, clip, palette
        self.written = 0
        try:
            for leftover in folder.glob("*.png"):  # also matches the hidden temporary files of a killed run
                leftover.unlink()
        except OSError as error:
            raise output_error(folder, error) from error
        self._behind = WriteBehind(threads=threads)

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Queue the mask of `frame` if it is a result of this clip."""
        if self.clip.outputs is not None and frame.name not in self.clip.outputs:
            return
        self.written += 1
        path, labels = self.folder / f"{frame.name}.png", result.labels
        self._behind.submit(lambda: self._save(path, labels))

    def _save(self, path: Path, labels: LabelMap) -> None:
        write_mask(path, labels, palette=self.palette, binary=self.clip.binary_output)


class ObjectMaskSink(_QueuedSink):
    """Writes `<folder>/<object id>/<frame name>.png` with 0 and 1 in the palette, one file per object, atomically.

    Every object gets a file for every frame, empty ones before it enters. Objects are numbered as the folders of the clip's own
    masks are.

    Args:
        folder: the clip's result folder; PNG files in its object folders are left from an earlier run and removed first.
        clip: `outputs` restricts which frames are written.
        palette: uint8 `(256, 3)`, or None for the DAVIS colours.
        threads: writer threads.

    Raises:
        OutputError: what is left cannot be removed.
    """

    def __init__(self, folder: Path, clip: Clip, *, palette: npt.NDArray[np.uint8] | None = None, threads: int = 2) -> None:
        self.folder, self.clip, self.palette = folder, clip, palette
        self.written = 0
        self._names: list[str] = []
        self._known: set[int] = set()
        own = next(iter(clip.annotations.values()), None) if clip.mask_kind == "objects" else None
        self._shift = 0 if own is None or not own.exists() else object_id_shift(own)
        try:
            for leftover in folder.glob("[0-9]*/*.png"):
                leftover.unlink()
        except OSError as error:
            raise output_error(folder, error) from error
        self._behind = WriteBehind(threads=threads)

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Queue the masks of `frame` if it is a result of this clip."""
        if self.clip.outputs is not None and frame.name not in self.clip.outputs:
            return
        shape = result.labels.shape
        for place, object_id in enumerate(result.ids):
            if object_id not in self._known:
                self._known.add(object_id)
                for name in self._names:
                    self._submit(object_id, name, np.zeros(shape, np.uint8))
            mask = result.labels == object_id if result.masks is None else result.masks[place]
            self._submit(object_id, frame.name, mask.astype(np.uint8))
        for object_id in self._known.difference(result.ids):  # removed since
            self._submit(object_id, frame.name, np.zeros(shape, np.uint8))
        self._names.append(frame.name)

    def _submit(self, object_id: int, name: str, mask: npt.NDArray[np.uint8]) -> None:
        self.written += 1
        path = self.folder / f"{object_id - self._shift:03d}" / f"{name}.png"
        self._behind.submit(lambda: write_mask(path, mask, palette=self.palette))


class SoftSink(_QueuedSink):
    """Writes `<folder>/<frame name>.npz` to merge runs: `probs` uint8 `(N + 1, H, W)`, 0-255, background first, and `ids` `(N,)`.

    Args:
        folder: the clip's folder for soft results.
        clip: `outputs` restricts which frames are written.
        threads: writer threads.
    """

    def __init__(self, folder: Path, clip: Clip, *, threads: int = 2) -> None:
        self.folder, self.clip = folder, clip
        for leftover in folder.glob(".*.npz"):  # temporary files of a killed run
            leftover.unlink()
        self._behind = WriteBehind(threads=threads, depth=4)

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Queue the probabilities of `frame` if it is a result of this clip."""
        if self.clip.outputs is not None and frame.name not in self.clip.outputs:
            return
        probs = result.probs
        if probs is None:
            raise OutputError(
                f"the method gave no probabilities for frame {frame.name} of clip '{self.clip.name}'",
                fix="Leave out --soft, or report this as a fault of the method",
            )
        path, ids = self.folder / f"{frame.name}.npz", result.ids
        self._behind.submit(lambda: write_soft(path, probs, ids))


class OverlaySink:
    """Writes one video with the objects painted over the frames; encoded on a thread of its own.

    Args:
        path: `.webm` or `.mp4`; whole or absent, as all results.
        fps: frames a second.
    """

    def __init__(self, path: Path, *, fps: float = 24.0) -> None:
        self.path, self.fps = path, fps
        for leftover in path.parent.glob(f".{glob.escape(path.stem)}.*{path.suffix}"):  # temporary files of a killed run
            leftover.unlink()
        self._writer: OverlayWriter | None = None
        self._behind = WriteBehind(threads=1, depth=4)  # one thread: frames must stay in order
        self._lock = threading.Lock()

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Queue one painted frame."""
        self._behind.submit(lambda: self._paint(frame, result))

    def _paint(self, frame: Frame, result: FrameResult) -> None:
        from vos_core.io.video import OverlayWriter

        with self._lock:
            if self._writer is None:
                self._writer = OverlayWriter(self.path, fps=self.fps)
            self._writer.write(frame.rgb, result.labels)

    def close(self) -> None:
        """Finish the video."""
        self._behind.close()
        if self._writer is not None:
            self._writer.close()

    def abort(self) -> None:
        """Remove the unfinished video."""
        self._behind.abort()
        if self._writer is not None:
            self._writer.abort()


def write_soft(path: Path, probs: npt.NDArray[np.float32], ids: tuple[int, ...]) -> None:
    """Write probabilities `(N + 1, H, W)`, 0-1, as uint8 0-255 with their ids to a compressed npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, probs=np.rint(np.clip(probs, 0, 1) * 255).astype(np.uint8), ids=np.asarray(ids, dtype=np.uint16))
    write_bytes(path, buffer.getvalue())


def read_soft(path: Path) -> tuple[npt.NDArray[np.float32], tuple[int, ...]]:
    """Return probabilities float32 `(N + 1, H, W)`, 0-1, and ids from a file that `write_soft` made.

    Raises:
        MaskError: the file is absent, torn or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            probs, ids = data["probs"], data["ids"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise MaskError(f"soft masks {path} cannot be read: {error}", expected="an npz file with probs and ids") from error
    if probs.dtype != np.uint8 or probs.ndim != 3 or len(ids) + 1 != len(probs):
        raise MaskError(
            f"soft masks {path} hold probs {probs.dtype} {probs.shape} for {len(ids)} ids", expected="uint8 (N + 1, H, W)"
        )
    return probs.astype(np.float32) / 255, tuple(int(value) for value in ids)
