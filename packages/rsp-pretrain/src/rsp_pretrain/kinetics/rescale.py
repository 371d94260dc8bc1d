"""Videos at a short side of 256 pixels, which decode several times faster: H.264 by PyAV, no command line tool needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsp_pretrain.kinetics.jobs import Outcome, remove_leftovers, run_jobs
from rsp_pretrain.kinetics.places import Places
from vos_core.errors import FrameError, LayoutError
from vos_core.extras import require
from vos_core.io.atomic import replacing

SHORT = 256
KEYINT = 48
"""Most frames between key frames. x264 takes 250; reading single frames, as training does, decodes from a key frame on."""


@dataclass(frozen=True, slots=True)
class Rescaling:
    """One video to write. `short` in pixels; `crf`, `preset`, `keyint` are x264's quality, effort and key frame distance."""

    source: Path
    target: Path
    short: int = SHORT
    crf: int = 23
    preset: str = "medium"
    keyint: int = KEYINT


def rescaled_size(height: int, width: int, short: int = SHORT) -> tuple[int, int]:
    """Return (height, width) with the shorter side at `short`, the longer one in proportion and rounded down to even.

    >>> rescaled_size(360, 640)
    (256, 454)
    """
    if height <= width:
        return short, max(2, width * short // height // 2 * 2)
    return max(2, height * short // width // 2 * 2), short


def rescale(
    root: Path,
    *,
    begin: int = 0,
    end: int | None = None,
    short: int = SHORT,
    crf: int = 23,
    preset: str = "medium",
    keyint: int = KEYINT,
    processes: int = 1,
    dry_run: bool = False,
    on_done: Callable[[int, int], object] | None = None,
) -> Outcome:
    """Write every video of `<root>/train` to `<root>/train2` with its shorter side at `short` pixels.

    Args:
        root: data folder.
        begin, end: slice of the classes in name order, to split the work over jobs (the original's 0 and 401).
        short: pixels, even.
        crf: 0-51, smaller is better and larger; 23 is x264's default.
        preset: x264's, `ultrafast` to `veryslow`.
        keyint: most frames between key frames.
        processes: videos at a time.
        dry_run: say what would be written.
        on_done: called with (videos ended, videos in all).

    Raises:
        LayoutError: there is no video.
        MissingExtraError: PyAV is not installed.
        OutputError: the disk is full or read-only.
    """
    require("av", extra="video", purpose="rescale videos")
    classes = sorted(Places(root).videos("train").items())
    if not classes:
        raise LayoutError(f"there is no class folder in {root / 'train'}", fix="Run: rsp-pretrain data arrange")
    jobs = [
        Rescaling(path, root / "train2" / name / f"{path.stem}.mp4", short, crf, preset, keyint)
        for name, paths in classes[begin:end]
        for path in paths
    ]
    missing = [job for job in jobs if not job.target.is_file()]
    outcome = Outcome(planned=[f"{job.source} -> {job.target}" for job in missing], kept=len(jobs) - len(missing))
    if dry_run:
        return outcome
    for count, done in enumerate(run_jobs(rescale_video, missing, processes=processes), 1):
        if done.error is None:
            outcome.written += 1
        else:
            outcome.failed.append((str(done.item.source), str(done.error)))
        if on_done is not None:
            on_done(count, len(missing))
    return outcome


def rescale_video(job: Rescaling) -> int:
    """Write one video without sound, every frame at its time, and return the number of frames.

    Raises:
        FrameError: the source cannot be decoded to its end.
        OutputError: the target cannot be written.
    """
    av: Any = require("av", extra="video", purpose="rescale videos")
    remove_leftovers(job.target)
    try:
        source = av.open(str(job.source))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _unreadable(job.source, error) from error
    with source, replacing(job.target) as temporary:
        if not source.streams.video:
            raise FrameError(f"{job.source} has no video stream", fix="Leave it out")
        stream = source.streams.video[0]
        stream.codec_context.thread_count = 1  # many videos at a time use the cores better than many threads
        height, width = rescaled_size(stream.codec_context.height, stream.codec_context.width, job.short)
        with av.open(str(temporary), "w", format="mp4") as target:
            out = target.add_stream("libx264", rate=stream.average_rate or 25)
            out.height, out.width, out.pix_fmt = height, width, "yuv420p"
            out.codec_context.time_base = stream.time_base
            out.codec_context.thread_count = 1
            out.options = {"crf": str(job.crf), "preset": job.preset, "g": str(job.keyint)}
            count = 0
            for frame in _frames(av, source, stream, job.source):
                resized = frame.reformat(width=width, height=height, format="yuv420p", interpolation="BICUBIC")
                resized.pts, resized.time_base = frame.pts, frame.time_base
                for packet in out.encode(resized):
                    target.mux(packet)
                count += 1
            if not count:
                raise FrameError(f"video {job.source} has no frame", fix="Download it again")
            for packet in out.encode(None):
                target.mux(packet)
    return count


def _frames(av: Any, source: Any, stream: Any, path: Path) -> Any:
    frames = source.decode(stream)
    while True:
        try:
            frame = next(frames, None)
        except av.error.FFmpegError as error:
            raise _unreadable(path, error) from error
        if frame is None:
            return
        yield frame


def _unreadable(path: Path, error: Exception) -> FrameError:
    return FrameError(f"video {path} cannot be decoded ({error})", fix="Download it again, or leave it out")
