"""Scores a finished run against the truth of its clips by the folder protocol, which also fits sparse truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vos_core.errors import VosError
from vos_core.io.masks import read_clip_mask
from vos_core.metrics.evaluate import score_videos
from vos_core.metrics.folder import FolderProtocol
from vos_core.metrics.scores import ObjectScores
from vos_core.metrics.source import VideoJob
from vos_core.report.scores import known, mean_of_known
from vos_core.types import Clip, RunRecord


def score_run(record: RunRecord, clips: Sequence[Clip]) -> RunRecord:
    """Return `record` with scores: J and F of every object in every scored frame, and their means over objects, 0-1.

    A clip without truth, or whose masks cannot be scored, is listed with the reason in `unscored` and left out of the means.
    `scores` is None if no clip was scored.

    Args:
        record: `output` is the folder of its masks.
        clips: the clips that it ran over.
    """
    done = {clip.name for clip in record.clips if clip.status == "done"}
    rows: list[dict[str, Any]] = []
    unscored: dict[str, str] = {}
    warnings: list[str] = []
    for clip in clips:
        if clip.name not in done:
            unscored[clip.name] = "not run to the end"
            continue
        try:
            files, reason = truth_files(clip)
            if reason:
                unscored[clip.name] = reason
                continue
            job = VideoJob(clip.name, next(iter(files.values())).parent, Path(record.output or "") / clip.name, files)
            (video,) = score_videos(FolderProtocol(binary=clip.mask_kind == "binary"), [job], processes=1)
        except VosError as error:
            unscored[clip.name] = str(error)
            continue
        warnings += video.warnings
        rows += [_row(item) for item in video.objects if clip.void is None or item.object_id != str(clip.void)]
    return replace(record, scores=_scores(rows, unscored, warnings) if rows else None)


def truth_files(clip: Clip) -> tuple[Mapping[str, Path], str]:
    """Return frame name -> mask from the first prompt on in time order, and why the clip cannot be scored ("" if it can).

    Masks that only bring new objects are prompts, not truth: some mask must show nothing but objects known before.

    Raises:
        MaskError: a mask that cannot be read.
    """
    if clip.mask_kind == "objects":
        return {}, "its truth has a folder for each object; score it with vos eval sav"
    names = [path.stem for path in clip.frames] or sorted(clip.annotations)
    seen: set[int] = set()
    truth: dict[str, Path] = {}
    dense = False
    for name in names:
        if name not in clip.annotations:
            continue
        if not dense:
            found = {int(value) for value in np.unique(read_clip_mask(clip, name))} - {0, clip.void}
            dense = bool(seen) and found <= seen
            seen |= found
        if seen and (clip.outputs is None or name in clip.outputs):
            truth[name] = clip.annotations[name]
    if not dense:
        return {}, "no ground truth beyond the prompts"
    if len(truth) < 3:
        return {}, "fewer than three masks, and the first and last are not scored"
    return truth, ""


def _row(item: ObjectScores) -> dict[str, Any]:
    j, f = ([known(value) for value in item.values[metric]] for metric in ("J", "F"))
    return {
        "clip": item.video,
        "object": item.object_id,
        "J": mean_of_known(j),
        "F": mean_of_known(f),
        "frames": list(item.frames),
        "J_frames": j,
        "F_frames": f,
    }


def _scores(rows: Sequence[Mapping[str, Any]], unscored: Mapping[str, str], warnings: Sequence[str]) -> dict[str, Any]:
    j, f = (mean_of_known([row[metric] for row in rows]) for metric in ("J", "F"))
    return {
        "protocol": FolderProtocol().name,
        "J&F": None if j is None or f is None else (j + f) / 2,
        "J": j,
        "F": f,
        "objects": len(rows),
        "unscored": dict(unscored),
        "warnings": list(warnings),
        "per_object": list(rows),
    }
