"""The MOSEv2 score: J, adaptive F, disappearance and reappearance (vos-core specification, section 2.6)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vos_core.errors import ScoreError
from vos_core.metrics.adaptive import absences, adaptive_measure, segment_mean
from vos_core.metrics.region import smoothed_jaccard
from vos_core.metrics.scores import Conclusion, ObjectScores, VideoScores, all_objects, unscored_warnings
from vos_core.metrics.source import Missing, VideoJob, VideoReader, list_folders, list_masks
from vos_core.metrics.summary import mean_of

COLUMNS = ("J&F_new", "J", "F_new", "disappear_J&F_new", "reappear_J&F_new", "F", "J&F")


@dataclass(frozen=True, slots=True)
class MoseV2Protocol:
    """Objects of the meta file, frames 1..length-2 in the order of the predicted files.

    Args:
        missing: `empty` scores a video without results 0, as the official tool does, and absent frames as empty masks.
        started: monotonic second from which `total_time` counts.
    """

    missing: Missing = "error"
    started: float = field(default_factory=time.monotonic, compare=False)

    @property
    def name(self) -> str:
        """Name in `results.json`."""
        return "mosev2"

    def score(self, job: VideoJob) -> VideoScores:
        """Return J, plain and adaptive F, and whether the truth shows the object, for every object of the meta file."""
        reader = VideoReader(job, missing=self.missing)
        if not reader.prediction_files:
            return self._absent_video(job)
        scored = self._frame_names(job, reader)[1 : (job.length or len(reader.names)) - 1]
        values: dict[str, dict[str, list[float]]] = {
            key: {"J": [], "F_adaptive": [], "F": [], "present": []} for key in job.objects
        }
        for name in scored:
            truth, prediction = reader.pair(name)
            for key, columns in values.items():
                a, b = truth.mask(int(key)), prediction.mask(int(key))
                plain, adaptive = adaptive_measure(a, b)
                for column, value in (
                    ("J", smoothed_jaccard(a, b)),
                    ("F_adaptive", adaptive),
                    ("F", plain),
                    ("present", float(a.words.size > 0)),
                ):
                    columns[column].append(value)
        objects = tuple(ObjectScores(job.video, key, key, tuple(scored), columns) for key, columns in values.items())
        unseen = [item.object_id for item in objects if not any(item.values["present"])]
        return VideoScores(job.video, objects, (*_unseen_warning(job, unseen, reader), *reader.warnings()))

    def conclude(self, videos: Sequence[VideoScores]) -> Conclusion:
        """Return means over objects, `metrics.json` and `scores.txt` (percent, two decimals)."""
        objects = all_objects(videos)
        rows = [object_scores(item) for item in objects]
        counted = [row for item, row in zip(objects, rows, strict=True) if item.frames or item.details.get("absent")]
        means = {key: mean_of([row[key] for row in counted]) for key in ("J", "F_adaptive", "F", "J_d", "F_d", "J_r", "F_r")}
        scores = _columns(means)
        percents = {key: _percent(value) for key, value in scores.items()}
        metrics: dict[str, Any] = {
            f"{item.video}_{item.row}": {key: _percent(value) for key, value in _columns(row).items()}
            for item, row in zip(objects, rows, strict=True)
        }
        metrics["total_time"] = round(time.monotonic() - self.started, 2)
        lines = [f"{key}: {_text(value, 2)}" for key, value in percents.items()]
        lines.append("Copy-Paste: " + ",".join(_text(value, 1) for value in percents.values()))
        tables = {"metrics.json": json.dumps(metrics, indent=4), "scores.txt": "\n".join(lines) + "\n"}
        return Conclusion(scores, rows, tables, unscored_warnings([item for item in objects if not item.details.get("absent")]))

    def _absent_video(self, job: VideoJob) -> VideoScores:
        objects = tuple(
            ObjectScores(job.video, key, key, (), {"J": (), "F_adaptive": (), "F": (), "present": ()}, {"absent": True})
            for key in job.objects
        )
        return VideoScores(job.video, objects, (f"video {job.video}: no results in {job.prediction}, scored 0",))

    def _frame_names(self, job: VideoJob, reader: VideoReader) -> list[str]:
        """Return all frame names; the official tool takes them from the predicted files in numeric order."""
        predicted = sorted(reader.prediction_files, key=lambda name: (int(name) if name.isdigit() else -1, name))
        length = job.length or len(reader.names)
        if len(predicted) == length:
            return predicted
        if self.missing == "empty" and len(reader.names) == length:
            return reader.names
        held = f"video {job.video}: {job.prediction} holds {len(predicted)} masks"
        if len(predicted) > length:
            surplus = [name for name in predicted if name not in reader.truth_files]
            raise ScoreError(
                held + (f", {surplus[0]} is no frame" if surplus else ""),
                expected=f"{length} masks, one per frame",
                fix="Take the others away, or correct the length in the meta file",
            )
        absent = [name for name in reader.names if name not in reader.prediction_files]
        raise ScoreError(
            held + (f", frame {absent[0]} is missing" if absent else ""),
            expected=f"{length} masks, one per frame",
            fix="Write a mask for every frame, or pass --missing empty to score absent masks as empty",
        )


def object_scores(item: ObjectScores) -> dict[str, float]:
    """Return one object's means over frames and over its disappearance and reappearance segments; NaN where it has none."""
    row = {key: mean_of(item.values[key]) if item.frames else 0.0 for key in ("J", "F_adaptive", "F")}
    gone, back = absences([value > 0 for value in item.values["present"]])
    for suffix, segments in (("d", gone), ("r", back)):
        for metric, column in (("J", "J"), ("F", "F_adaptive")):
            mean = segment_mean(item.values[column], segments)
            row[f"{metric}_{suffix}"] = math.nan if mean is None else mean
    return row


def mosev2_jobs(meta: Mapping[str, Any], truth_root: Path, prediction_root: Path) -> list[VideoJob]:
    """Return the videos of a meta file; a prediction root that holds only one folder is entered, as the official tool does."""
    expected = '{"videos": {name: {"length", "objects": {id: ...}}}} as in MOSEv2'
    videos = meta.get("videos")
    if not isinstance(videos, Mapping):
        raise ScoreError('the meta file has no table "videos"', expected=expected)
    for name, video in videos.items():
        lacking = [key for key in ("length", "objects") if not isinstance(video, Mapping) or key not in video]
        if lacking:
            raise ScoreError(f"video {name} of the meta file lacks {' and '.join(lacking)}", expected=expected)
    inside = list_folders(prediction_root)
    if len(inside) == 1 and inside[0] not in videos and not list_masks(prediction_root):
        prediction_root = prediction_root / inside[0]
    return [
        VideoJob(
            name,
            truth_root / name,
            prediction_root / name,
            objects={str(key): {} for key in video["objects"]},
            length=int(video["length"]),
        )
        for name, video in videos.items()
    ]


def _unseen_warning(job: VideoJob, unseen: Sequence[str], reader: VideoReader) -> tuple[str, ...]:
    """Return the warning about objects of the meta file that no mask shows; the official tool scores them as perfectly absent."""
    if not unseen or not reader.names:
        return ()
    first = reader.frame(reader.raw_truth(reader.names[0])).ids()
    never = [key for key in unseen if int(key) not in first]
    if not never:
        return ()
    shown = ", ".join(map(str, first)) or "none"
    return (
        f"video {job.video}: no scored mask of {job.truth} shows the ids {', '.join(never)} of the meta file, "
        f"whose scores say nothing (ids of its first mask: {shown})",
    )


def _columns(row: Mapping[str, float]) -> dict[str, float]:
    values = (
        (row["J"] + row["F_adaptive"]) / 2,
        row["J"],
        row["F_adaptive"],
        (row["J_d"] + row["F_d"]) / 2,
        (row["J_r"] + row["F_r"]) / 2,
        row["F"],
        (row["J"] + row["F"]) / 2,
    )
    return dict(zip(COLUMNS, values, strict=True))


def _percent(value: float) -> float | None:
    return None if math.isnan(value) else round(100 * value, 2)


def _text(value: float | None, decimals: int) -> str:
    return "nan" if value is None else f"{value:.{decimals}f}"
