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
        return VideoScores(job.video, objects, reader.warnings())

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
        absent = [name for name in reader.names if name not in reader.prediction_files]
        raise ScoreError(
            f"video {job.video}: {job.prediction} holds {len(predicted)} masks"
            + (f", frame {absent[0]} is missing" if absent else ""),
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
    try:
        videos = {name: (video["length"], video["objects"]) for name, video in meta["videos"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ScoreError(
            f"the meta file lacks {error}", expected='{"videos": {name: {"length", "objects": {id: ...}}}} as in MOSEv2'
        ) from error
    inside = list_folders(prediction_root)
    if len(inside) == 1 and inside[0] not in videos and not list_masks(prediction_root):
        prediction_root = prediction_root / inside[0]
    return [
        VideoJob(name, truth_root / name, prediction_root / name, objects={str(key): {} for key in objects}, length=int(length))
        for name, (length, objects) in videos.items()
    ]


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
