"""One worker of a run: builds the method once, then runs clips one after the other and never lets one clip's failure stop it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from vos_core.contract import AdaptiveSegmenter, BuildRequest, MethodInfo, Segmenter
from vos_core.errors import VosError
from vos_core.io.frames import clip_fps, open_clip
from vos_core.io.palette import AOT_PALETTE
from vos_core.io.png import palette_of
from vos_core.run.device import apply_numerics, apply_threads, seed_everything
from vos_core.run.objects import fork, group_objects
from vos_core.run.prompts import count_objects
from vos_core.run.session import run_clip
from vos_core.run.sinks import MaskSink, ObjectMaskSink, OverlaySink, Sink, SoftSink
from vos_core.run.tta import Augmentation, augment
from vos_core.types import Clip, ClipRecord

_LOG = logging.getLogger("vos_core.run")
PaletteChoice = Literal["davis", "aot", "first"]
OverlayFormat = Literal["webm", "mp4"]


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker of a run needs to know; can be sent to other processes.

    Args:
        method: the method.
        request: how its segmenter is built.
        output: masks go to `<output>/<clip>/<frame>.png`, an overlay to `<output>/<clip>.<overlay>`.
        palette: colours of the masks: `davis`, `aot`, or `first` to copy those of the clip's first annotation.
        overlay: container of the overlay video, or None for no video.
        soft: probabilities go to `<soft>/<clip>/<frame>.npz`; None writes none.
        augmentation: flips and scales to average over.
        threads: CPU threads for computing; None leaves the libraries' defaults.
        object_masks: write a mask file per object instead of label maps.
    """

    method: MethodInfo
    request: BuildRequest
    output: Path
    palette: PaletteChoice = "davis"
    overlay: OverlayFormat | None = None
    soft: Path | None = None
    augmentation: Augmentation | None = None
    threads: int | None = None
    object_masks: bool = False


@dataclass(frozen=True, slots=True)
class ClipOutcome:
    """A clip's record and how many mask files it wrote."""

    record: ClipRecord
    written: int = 0


def failed_outcome(clip: Clip, error: Exception) -> ClipOutcome:
    """Return the outcome of a clip that `error` ended; if it is no `VosError`, its traceback is logged."""
    if isinstance(error, VosError):
        return ClipOutcome(ClipRecord(name=clip.name, status="failed", error=str(error)))
    _LOG.error("clip '%s' failed", clip.name, exc_info=error)
    return ClipOutcome(ClipRecord(name=clip.name, status="failed", error=f"{type(error).__name__}: {error}"))


class Worker:
    """Runs clips of one job.

    Raises:
        VosError: the method cannot be built (weights, options, device).
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        apply_threads(job.threads)
        seed_everything(job.request.seed)
        self._segmenter: Segmenter | None = build_segmenter(job)
        self._grouped = False
        apply_threads(job.threads)  # once more: building may have imported torch
        apply_numerics(job.request.precision, job.request.device)

    def run(self, clip: Clip, on_frame: Callable[[int, int], None] | None = None) -> ClipOutcome:
        """Return how `clip` went; an error in it becomes a failed record. Only an interrupt passes through."""
        sinks: list[Sink] = []
        try:
            segmenter = self._segmenter_for(clip)
            seed_everything(self.job.request.seed)  # a clip's result must not depend on those run before it
            kind = ObjectMaskSink if self.job.object_masks else MaskSink
            masks = kind(self.job.output / clip.name, clip, palette=self._palette(clip))
            sinks.append(masks)
            sinks += self._further_sinks(clip)
            record = run_clip(
                segmenter,
                clip,
                sinks,
                device=self.job.request.device,
                image_backend=self.job.method.image_backend,
                on_frame=on_frame,
            )
            return ClipOutcome(record, masks.written)
        except Exception as error:  # noqa: BLE001 - one clip's failure, even a fault of the method, must not stop the others
            for sink in sinks:
                sink.abort()
            if not isinstance(error, VosError):
                self._segmenter = None  # its state is unknown
            return failed_outcome(clip, error)

    def _segmenter_for(self, clip: Clip) -> Segmenter:
        limit = self.job.method.max_objects
        grouped = self._grouped
        if limit is not None and not grouped:
            with closing(open_clip(clip)) as source:
                grouped = count_objects(clip, source) > limit
        if self._segmenter is None or grouped != self._grouped:
            self._segmenter, self._grouped = None, grouped  # freed before the next one is built
            self._segmenter = build_segmenter(self.job, grouped=grouped)
        return self._segmenter

    def _palette(self, clip: Clip) -> npt.NDArray[np.uint8] | None:
        if self.job.palette == "aot":
            return AOT_PALETTE
        first = clip.annotations[min(clip.annotations)] if clip.annotations else None
        return palette_of(first) if self.job.palette == "first" and first is not None and first.is_file() else None

    def _further_sinks(self, clip: Clip) -> list[Sink]:
        sinks: list[Sink] = []
        if self.job.soft is not None:
            sinks.append(SoftSink(self.job.soft / clip.name, clip))
        if self.job.overlay is not None:
            sinks.append(OverlaySink(self.job.output / f"{clip.name}.{self.job.overlay}", fps=clip_fps(clip)))
        return sinks


def build_segmenter(job: Job, *, grouped: bool = False) -> Segmenter:
    """Return the job's segmenter: in groups for clips with more objects than slots, averaged over augmentations if asked."""
    method = job.method
    soft = grouped or job.request.probabilities or job.soft is not None or job.augmentation is not None
    request = replace(job.request, probabilities=soft)
    first = method.build(request)
    if not grouped and job.augmentation is None:
        return first
    # Adapting changes weights, so adaptive segmenters must not share them. Copies are made of a copy: `first` will hold a clip.
    adaptive = isinstance(first, AdaptiveSegmenter)
    template = None if adaptive else fork(first)
    unused = [first]

    def one() -> Segmenter:
        if unused:
            return unused.pop()
        shared = None if template is None else fork(template)
        return shared if shared is not None else method.build(request)

    def inner() -> Segmenter:
        return group_objects(one, max_objects=method.max_objects, adaptive=adaptive) if grouped else one()

    return augment(inner, job.augmentation, adaptive=adaptive) if job.augmentation is not None else inner()
