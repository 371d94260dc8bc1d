"""The streaming loop: frames of one clip through one segmenter into sinks, with timing and peak memory."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from vos_core.contract import AdaptiveSegmenter, LengthAware, Segmenter
from vos_core.errors import ClipWarning, FrameError, VosError
from vos_core.io.frames import open_clip, prefetch
from vos_core.io.images import ImageBackend
from vos_core.run.device import synchronize
from vos_core.run.memory import MemoryMeter
from vos_core.run.prompts import ClipPrompts, all_prompts
from vos_core.run.record import input_sha256
from vos_core.run.sinks import Sink
from vos_core.types import Clip, ClipRecord, Frame, FrameResult


def run_clip(
    segmenter: Segmenter,
    clip: Clip,
    sinks: Sequence[Sink] = (),
    *,
    device: str = "cpu",
    prefetch_depth: int = 4,
    decode_threads: int = 2,
    image_backend: ImageBackend = "pillow",
    callback: Callable[[Frame, FrameResult], None] | None = None,
    on_frame: Callable[[int, int], None] | None = None,
) -> ClipRecord:
    """Return what following the objects of `clip` cost; results go to `sinks` and `callback`.

    Frames before the first prompt are not decoded, processed or written. Frames are decoded ahead and results written behind on
    threads through bounded queues, so memory does not depend on the clip's length.

    Args:
        segmenter: fresh or reset; it is reset again at the end, also after an error.
        clip: what to read and which masks to give.
        sinks: receivers of every result; closed when the clip ends well, aborted otherwise.
        device: where the segmenter computes; its clock is read after the device has finished.
        prefetch_depth: frames decoded ahead.
        decode_threads: threads that decode.
        image_backend: decoder of image files.
        callback: called with each frame and its result.
        on_frame: called with the number of frames done and to do.

    Raises:
        VosError: a frame or mask that cannot be read, a result of the wrong size, an output that cannot be written.
    """
    begin = time.perf_counter()
    meter = MemoryMeter(device)
    steps: list[float] = []
    state_bytes = 0
    said: list[str] = []
    try:
        if clip.video is None and not clip.frames:
            raise FrameError(f"clip '{clip.name}' has no frames", expected="at least one image or video frame")
        with _clip_warnings(said), closing(open_clip(clip, backend=image_backend)) as source:
            prompts = ClipPrompts(clip, source.names)
            first, given = prompts.first(source)
            if isinstance(segmenter, LengthAware | AdaptiveSegmenter):
                source.counted()  # they plan by the length, which many video files only estimate
            if isinstance(segmenter, LengthAware):
                segmenter.expect(len(source))
            adapt_seconds = 0.0
            if isinstance(segmenter, AdaptiveSegmenter):
                whole = all_prompts(clip, source)
                tick = time.perf_counter()
                segmenter.adapt(source, whole)
                synchronize(device)
                adapt_seconds = time.perf_counter() - tick
            height, width = source.read(first).rgb.shape[:2]
            total = len(source) - first
            with closing(prefetch(source, start=first, depth=prefetch_depth, threads=decode_threads)) as frames:
                for frame in frames:
                    if frame.rgb.shape[:2] != (height, width):
                        raise FrameError(
                            f"frame {frame.name} of clip '{clip.name}' is {frame.rgb.shape[1]}x{frame.rgb.shape[0]}",
                            expected=f"{width}x{height} like the frames before it",
                        )
                    if frame.index > first:
                        given = prompts.at(frame.index, (height, width))
                    tick = time.perf_counter()
                    result = segmenter.step(frame, given)
                    synchronize(device)
                    steps.append(time.perf_counter() - tick)
                    _check_result(result, frame, clip)
                    state_bytes = max(state_bytes, segmenter.state_bytes())
                    for sink in sinks:
                        sink.write(frame, result)
                    if callback is not None:
                        callback(frame, result)
                    if on_frame is not None:
                        on_frame(len(steps), total)
        for sink in sinks:
            sink.close()
    except BaseException:
        for sink in sinks:
            sink.abort()
        raise
    finally:
        segmenter.reset()
    seconds = time.perf_counter() - begin
    return ClipRecord(
        name=clip.name,
        status="done",
        frames=len(steps),
        objects=len(prompts.ids),
        height=height,
        width=width,
        seconds_total=seconds,
        seconds_adapt=adapt_seconds,
        step_seconds=tuple(steps),
        peak_memory_bytes=meter.peak_bytes(),
        state_bytes=state_bytes,
        warnings=tuple(prompts.warnings + prompts.missing_warning() + said),
        input_sha256=input_sha256(clip),
    )


@contextmanager
def _clip_warnings(said: list[str]) -> Iterator[None]:
    """Add what a method warns about the clip to `said`; other warnings are shown as usual."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", ClipWarning)
        show = warnings.showwarning

        def keep(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if not issubclass(category, ClipWarning):
                show(message, category, *place, **more)
            elif str(message) not in said:  # averaging over scales says it once for each
                said.append(str(message))

        warnings.showwarning = keep
        yield


def _check_result(result: FrameResult, frame: Frame, clip: Clip) -> None:
    if result.labels.shape != frame.rgb.shape[:2]:
        raise VosError(
            f"the method returned a label map of shape {result.labels.shape} for frame {frame.name} of clip '{clip.name}'",
            expected=f"{frame.rgb.shape[:2]}, the size of the frame",
            fix="Report this as a fault of the method",
        )
