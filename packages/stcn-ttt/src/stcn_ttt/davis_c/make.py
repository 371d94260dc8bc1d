"""Writing DAVIS-C: every clip x corruption x strength is one job; jobs run in parallel and a rerun goes on where one stopped."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from stcn_ttt.davis_c import pixel, stylised, temporal
from stcn_ttt.davis_c.pixel import Picture
from vos_core.data.davis_c import CORRUPTIONS, STRENGTHS
from vos_core.errors import FrameError, UsageError
from vos_core.io.atomic import write_bytes, write_json
from vos_core.io.frames import ImageFolder, read_image
from vos_core.types import Clip

STYLES = tuple(name for name in CORRUPTIONS if name.startswith("style"))
_RANDOM: dict[str, Callable[[Picture, int, np.random.RandomState], Picture]] = {
    "gaussian_noise": pixel.gaussian_noise,
    "glass_blur": pixel.glass_blur,
}
_PLAIN: dict[str, Callable[[Picture, int], Picture]] = {
    "contrast": pixel.contrast,
    "brightness": pixel.brightness,
    "saturate": pixel.saturate,
    "defocus_blur": pixel.defocus_blur,
    "pixelate": pixel.pixelate,
    "cartoon": stylised.cartoon,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What changes the pictures.

    Args:
        seed: of noise and glass blur, for each (strength, corruption, clip, frame) by itself; None draws anew, as the
            original did.
        quality: of the JPEG files (OpenCV), crf_compression apart.
        stylise: `module:function` for style1..4, or None.
        style_pictures: the four pictures of style1..4 in order.
    """

    seed: int | None = None
    quality: int = 95
    stylise: str | None = None
    style_pictures: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """One clip under one corruption at one strength."""

    clip: Clip
    corruption: str
    strength: str
    folder: Path
    settings: Settings = field(default_factory=Settings)


def make_davis_c(
    clips: Sequence[Clip],
    output: Path,
    *,
    corruptions: Sequence[str] = CORRUPTIONS,
    strengths: Sequence[str] = STRENGTHS,
    settings: Settings = Settings(),
    processes: int = 1,
    on_done: Callable[[Job], object] | None = None,
) -> int:
    """Write `<output>/<strength>/<corruption>/<clip>/<frame>.jpg` and return the number of frames written now.

    Frames that exist are kept: a rerun finishes what is missing. `<output>/davis_c.json` remembers the
    settings; others are refused.

    Raises:
        UsageError: unknown names, styles without a style transfer, clips that are video files, or an output made with other
            settings.
        FrameError: a frame or style picture that cannot be read.
        MissingExtraError: a corruption needs a package that is not installed; raised before anything is written.
    """
    _check_names(corruptions, CORRUPTIONS, "corruption")
    _check_names(strengths, STRENGTHS, "strength")
    check_needs(corruptions, settings)
    for clip in clips:
        if not clip.frames:
            raise UsageError(f"clip '{clip.name}' has no image files", expected="folders of frames", fix="Extract its frames")
    _remember(output, settings)
    jobs = [
        Job(clip, corruption, strength, output / strength / corruption / clip.name, settings)
        for strength in strengths
        for corruption in corruptions
        for clip in clips
    ]
    written = 0
    for job, count in _run(jobs, processes):
        written += count
        if on_done is not None:
            on_done(job)
    return written


def check_needs(corruptions: Sequence[str], settings: Settings) -> None:
    """Raise what `make_davis_c` would raise for a corruption that cannot be made here."""
    if "cartoon" in corruptions:
        stylised.require_cartoon()
    if "crf_compression" in corruptions:
        temporal.pyav()
    wanted = [name for name in corruptions if name in STYLES]
    if wanted and (settings.stylise is None or len(settings.style_pictures) != len(STYLES)):
        raise UsageError(
            f"{', '.join(wanted)} need an arbitrary style transfer network with its weights and four style pictures, "
            "which this package does not have",
            expected="--style-transfer module:function and --style-picture four times",
            fix="Pass them, or leave the styles out with --corruption",
        )
    if wanted and settings.stylise is not None:
        stylised.load_stylise(settings.stylise)
        for path in settings.style_pictures:
            read_image(path)


def run_job(job: Job) -> int:
    """Write the missing frames of one job; return how many."""
    targets = [job.folder / f"{path.stem}.jpg" for path in job.clip.frames]
    missing = [i for i, target in enumerate(targets) if not target.is_file()]
    if not missing:
        return 0
    pictures = _encoded(job)
    needed = set(missing)
    for index, data in enumerate(pictures):
        if index in needed:
            write_bytes(targets[index], data)
    return len(missing)


def _run(jobs: list[Job], processes: int) -> Iterator[tuple[Job, int]]:
    if processes <= 1:
        for job in jobs:
            yield job, run_job(job)
        return
    context = get_context("spawn")  # a fork of a process with threads of OpenCV or torch can hang
    with ProcessPoolExecutor(processes, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        futures = {pool.submit(run_job, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _encoded(job: Job) -> Iterator[bytes]:
    """Yield the JPEG file of every frame, in order."""
    strength = STRENGTHS.index(job.strength)
    if job.corruption == "crf_compression":
        yield from temporal.compress(list(_frames(job.clip)), strength, where=job.clip.frames[0].parent)
        return
    if job.corruption == "motion_blur":
        pictures = temporal.motion_blur(_frames(job.clip), strength)
    else:
        pictures = (_corrupted(job, strength, index, frame) for index, frame in enumerate(_frames(job.clip)))
    for picture in pictures:
        done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, job.settings.quality])
        if not done:
            raise FrameError(f"{job.folder}: a frame of size {picture.shape[1]}x{picture.shape[0]} cannot be coded as JPEG")
        yield data.tobytes()


def _corrupted(job: Job, strength: int, index: int, frame: Picture) -> Picture:
    if job.corruption in _PLAIN:
        return _PLAIN[job.corruption](frame, strength)
    if job.corruption in _RANDOM:
        seed = None
        if job.settings.seed is not None:
            key = f"{job.settings.seed}:{job.strength}:{job.corruption}:{job.clip.name}:{index}"
            seed = zlib.crc32(key.encode())
        return _RANDOM[job.corruption](frame, strength, np.random.RandomState(seed))
    assert job.settings.stylise is not None  # check_needs saw to it
    path = job.settings.style_pictures[STYLES.index(job.corruption)]
    picture = read_image(path)
    return stylised.style(frame, strength, picture=picture, stylise=stylised.load_stylise(job.settings.stylise))


def _frames(clip: Clip) -> Iterator[Picture]:
    for frame in ImageFolder(list(clip.frames), backend="opencv"):
        yield np.ascontiguousarray(frame.rgb[..., ::-1])


def _check_names(names: Sequence[str], known: Sequence[str], kind: str) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"unknown {kind} '{name}'", expected=f"one of: {', '.join(known)}")


def _remember(output: Path, settings: Settings) -> None:
    now = {
        "seed": settings.seed,
        "quality": settings.quality,
        "stylise": settings.stylise,
        "style_pictures": [str(path) for path in settings.style_pictures],
    }
    path = output / "davis_c.json"
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read ({error})", fix="Choose another output folder") from error
        if before != now:
            raise UsageError(
                f"{output} was made with other settings ({before})", fix="Repeat them or choose another output folder"
            )
    else:
        write_json(path, now)
