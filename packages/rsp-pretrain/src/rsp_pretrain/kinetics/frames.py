"""Frames of videos as JPEG files: more disk, less decoding while training."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from rsp_pretrain.data.sources import find_videos
from rsp_pretrain.kinetics.jobs import Outcome, run_jobs
from rsp_pretrain.kinetics.rescale import rescaled_size
from vos_core.errors import FrameError, LayoutError, UsageError
from vos_core.extras import require
from vos_core.io.atomic import output_error


@dataclass(frozen=True, slots=True)
class Extraction:
    """One video to write as frames; `short` in pixels, None = as it is; `quality` of the JPEG files."""

    source: Path
    folder: Path
    short: int | None = None
    quality: int = 90


def extract_frames(
    source: Path,
    output: Path,
    *,
    short: int | None = None,
    quality: int = 90,
    processes: int = 1,
    dry_run: bool = False,
    on_done: Callable[[int, int], object] | None = None,
) -> Outcome:
    """Write the frames of every video below `source` to `<output>/<video>/00000.jpg`, ...

    Args:
        source: Kinetics, a list or a folder of videos, see `rsp_pretrain.data.sources.find_videos`.
        output: takes over the folders below `source`.
        short: shorter side in pixels; frames that are smaller keep their size.
        quality: of the JPEG files, 1-95.
        processes: videos at a time.
        dry_run: say what would be written.
        on_done: called with (videos ended, videos in all).

    Raises:
        LayoutError: there is no video file.
        UsageError: two videos would share a folder.
        MissingExtraError: PyAV is not installed.
        OutputError: the disk is full or read-only.
    """
    require("av", extra="video", purpose="decode video")
    base = source if source.is_dir() else source.parent
    videos = [path for path in find_videos(source) if not path.is_dir()]
    if not videos:
        raise LayoutError(f"{source} holds no video file", expected="videos", fix="Folders of frames need no extraction")
    jobs = [Extraction(path, output / _relative(path, base).with_suffix(""), short, quality) for path in videos]
    if len({job.folder for job in jobs}) < len(jobs):
        raise UsageError(f"two videos below {source} have one name but for their suffix", fix="Rename one of them")
    missing = [job for job in jobs if not job.folder.is_dir()]
    outcome = Outcome(planned=[f"{job.source} -> {job.folder}" for job in missing], kept=len(jobs) - len(missing))
    if dry_run:
        return outcome
    outcome.notes["frames"] = 0
    for count, done in enumerate(run_jobs(extract_video, missing, processes=processes), 1):
        if done.error is None:
            outcome.written += 1
            outcome.notes["frames"] += done.result
        else:
            outcome.failed.append((str(done.item.source), str(done.error)))
        if on_done is not None:
            on_done(count, len(missing))
    return outcome


def extract_video(job: Extraction) -> int:
    """Write the frames of one video to a folder that appears when all are there; return their number.

    Raises:
        FrameError: the video cannot be decoded.
        OutputError: a frame cannot be written.
    """
    av: Any = require("av", extra="video", purpose="decode video")
    unfinished = job.folder.with_name(f".{job.folder.name}.part")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)  # of a killed run
        unfinished.mkdir(parents=True)
        count = 0
        with av.open(str(job.source)) as container:
            for frame in container.decode(video=0):
                picture: Image.Image = frame.to_image()
                if job.short is not None and min(picture.size) > job.short:
                    height, width = rescaled_size(picture.height, picture.width, job.short)
                    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
                picture.save(unfinished / f"{count:05d}.jpg", quality=job.quality)
                count += 1
        if not count:
            raise FrameError(f"video {job.source} has no frame", fix="Leave it out")
        unfinished.rename(job.folder)
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise FrameError(f"video {job.source} cannot be decoded ({error})", fix="Download it again, or leave it out") from error
    except OSError as error:
        raise output_error(job.folder, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return count


def _relative(path: Path, base: Path) -> Path:
    try:
        return path.relative_to(base)
    except ValueError:  # a list may name files anywhere
        return Path(path.parent.name) / path.name
