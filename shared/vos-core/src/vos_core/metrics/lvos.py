"""LVOS: every object over its own frame range, seen and unseen videos averaged apart (vos-core specification, section 2.6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vos_core.errors import ScoreError
from vos_core.metrics.boundary import measure_pair
from vos_core.metrics.davis import MAX_PROPOSALS
from vos_core.metrics.matching import PairTable, assign
from vos_core.metrics.packed import PackedMask, pack
from vos_core.metrics.scores import Conclusion, ObjectScores, VideoScores, all_objects, unscored_warnings
from vos_core.metrics.source import Labels, Missing, VideoJob, VideoReader
from vos_core.metrics.summary import mean_of
from vos_core.metrics.tables import csv_text

LvosTask = Literal["semi", "unsup_single", "unsup_multiple"]
STEP = 5
"""Frame numbers between two annotated frames."""
METRICS = ("J", "F", "V")


@dataclass(frozen=True, slots=True)
class LvosProtocol:
    """LVOS v1/v2 in its three tasks.

    Args:
        task: `semi` (by id, first and last frame of the range left out), `unsup_single` (one foreground mask against every
            object) or `unsup_multiple` (20 proposals, matched).
        unseen: names of the videos with unseen categories.
        set_name: suffix of the official files.
        missing: what an absent prediction is.
        legacy_range: in the unsupervised tasks, stop before `end` but divide by `frame_nums`, as the official tool does: where
            `end` is the last frame's number, every score is too low.
    """

    task: LvosTask = "semi"
    unseen: frozenset[str] = frozenset()
    set_name: str = "valid"
    missing: Missing = "error"
    legacy_range: bool = False

    @property
    def name(self) -> str:
        """Name in `results.json`."""
        return f"lvos-{self.task}"

    def score(self, job: VideoJob) -> VideoScores:
        """Return J and F of every object of the meta file."""
        reader = VideoReader(job, missing=self.missing)
        if self.task == "unsup_multiple":
            return VideoScores(job.video, self._score_proposals(job, reader), reader.warnings())
        objects = [(key, str(position), self._frames(item)) for position, (key, item) in enumerate(job.objects.items(), start=1)]
        values: dict[str, tuple[list[float], list[float]]] = {key: ([], []) for key in job.objects}
        for name in sorted({name for _, _, frames in objects for name in frames}):
            truth, prediction = reader.pair(name)
            single = _foreground(prediction.labels, job=job, frame=name) if self.task == "unsup_single" else None
            for key, _, frames in objects:
                if name in frames:
                    j, f = measure_pair(truth.mask(int(key)), prediction.mask(int(key)) if single is None else single)
                    values[key][0].append(j)
                    values[key][1].append(f)
        return VideoScores(
            job.video,
            tuple(
                self._object(job, key, row=row, frames=frames, j=values[key][0], f=values[key][1]) for key, row, frames in objects
            ),
            reader.warnings(),
        )

    def conclude(self, videos: Sequence[VideoScores]) -> Conclusion:
        """Return the means of the seen and unseen groups, the means of those, and the two CSV files."""
        objects = all_objects(videos)
        rows = [object_scores(item) for item in objects]
        warnings = list(unscored_warnings(objects))
        groups = {
            group: [row for item, row in zip(objects, rows, strict=True) if (item.video in self.unseen) == (group == "unseen")]
            for group in ("seen", "unseen")
        }
        warnings += [f"no {group} video: means are those of the other group" for group, members in groups.items() if not members]
        means = {(metric, group): mean_of([row[metric] for row in groups[group]]) for metric in METRICS for group in groups}
        scores: dict[str, float] = {"J&F-Mean": 0.0}
        for metric in METRICS:
            scores[f"{metric}-Mean"] = mean_of([means[metric, group] for group in groups])
            scores |= {f"{metric}-{group}-Mean": means[metric, group] for group in groups}
        scores["J&F-Mean"] = mean_of([means[metric, group] for metric in ("J", "F") for group in groups])
        tables = {
            f"global_results-{self.set_name}.csv": csv_text(list(scores), [list(scores.values())]),
            f"per-sequence_results-{self.set_name}.csv": csv_text(
                ["Sequence", "J-Mean", "F-Mean", "V-Mean"],
                [(f"{item.video}_{item.row}", *(row[m] for m in METRICS)) for item, row in zip(objects, rows, strict=True)],
            ),
        }
        return Conclusion(scores, rows, tables, tuple(warnings))

    def _frames(self, item: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the frames to score for one object of the meta file."""
        start, end, count = (int(item[key]) for key in ("start", "end", "frame_nums"))
        if self.task == "semi":
            steps = range(1, count - 1)
        elif self.legacy_range:
            steps = range(min(count, max(0, math.ceil((end - start) / STEP))))
        else:
            steps = range(count)
        return tuple(f"{start + STEP * k:08d}" for k in steps)

    def _score_proposals(self, job: VideoJob, reader: VideoReader) -> tuple[ObjectScores, ...]:
        keys = list(job.objects)
        frames = [self._frames(job.objects[key]) for key in keys]
        table = PairTable((int(key) for key in keys), void=None)
        names = sorted({name for listed in frames for name in listed})
        for name in names:
            truth, prediction = reader.pair(name)
            proposed = range(1, min(prediction.highest, MAX_PROPOSALS) + 1)
            table.add(truth.labels, prediction.labels, proposals=proposed)
        if not keys or not names:
            return ()
        proposals = range(1, max(MAX_PROPOSALS, len(keys)) + 1)
        j, f = table.stacked(proposals)
        gain = np.zeros(j.shape[:2])
        ranges = [[t for t, name in enumerate(names) if name in set(listed)] for listed in frames]
        for k, inside in enumerate(ranges):
            gain[:, k] = (j[:, k, inside].mean(axis=1) + f[:, k, inside].mean(axis=1)) / 2
        return tuple(
            self._object(
                job,
                keys[k],
                row=str(rank),
                frames=frames[k],
                j=j[p, k, ranges[k]].tolist(),
                f=f[p, k, ranges[k]].tolist(),
                details={"matched_proposal": p + 1},
            )
            for rank, (p, k) in enumerate(assign(gain), start=1)
        )

    def _object(
        self,
        job: VideoJob,
        key: str,
        *,
        row: str,
        frames: tuple[str, ...],
        j: Sequence[float],
        f: Sequence[float],
        details: Mapping[str, Any] | None = None,
    ) -> ObjectScores:
        lost = int(job.objects[key]["frame_nums"]) - len(frames) if self.legacy_range and self.task != "semi" else 0
        details = {**(details or {}), **({"legacy_zeros": lost} if lost else {})}
        return ObjectScores(job.video, key, row, frames, {"J": j, "F": f}, details)


def object_scores(item: ObjectScores) -> dict[str, float]:
    """Return one object's mean J, mean F and V, the deviation of (J + F) / 2 over frames; NaN without frames."""
    zeros = [0.0] * int(item.details.get("legacy_zeros", 0))
    j, f = (np.array([*item.values[metric], *zeros], np.float64) for metric in ("J", "F"))
    if not j.size:
        return dict.fromkeys(METRICS, math.nan)
    both = (j + f) / 2
    # The official tool rounds the variance to four decimals before the root.
    return {"J": float(j.mean()), "F": float(f.mean()), "V": float(np.sqrt(np.round(np.mean((both - both.mean()) ** 2), 4)))}


def lvos_jobs(meta: Mapping[str, Any], truth_root: Path, prediction_root: Path) -> list[VideoJob]:
    """Return the videos of a meta file with their objects' frame ranges.

    Raises:
        ScoreError: an object lacks its frame range.
    """
    jobs = []
    try:
        for name, video in meta["videos"].items():
            objects = {}
            for key, item in video["objects"].items():
                found = item["frame_range"]
                objects[key] = {part: int(found[part]) for part in ("start", "end", "frame_nums")}
            jobs.append(VideoJob(name, truth_root / name, prediction_root / name, objects=objects))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ScoreError(
            f"the meta file is not LVOS's: {type(error).__name__} {error}",
            expected='{"videos": {name: {"objects": {id: {"frame_range": {"start", "end", "frame_nums"}}}}}}',
        ) from error
    return jobs


def _foreground(predicted: Labels, *, job: VideoJob, frame: str) -> PackedMask:
    """Return the foreground of a single-object prediction by the official tool's rules for its values."""
    values = [int(value) for value in np.flatnonzero(np.bincount(predicted.ravel()))]
    if len(values) > 2:
        return pack(predicted >= 127)
    if set(values) in ({0, 1}, {0, 255}, {0}, {1}, {255}):
        return pack(predicted)
    raise ScoreError(
        f"video {job.video}, frame {frame}: {job.prediction / (frame + '.png')} has the values {values}",
        expected="a binary mask of {0, 1} or {0, 255}, or a grey map to threshold at 127",
        fix="Write the saliency mask as 0/255, or score label maps with --task unsup_multiple",
    )
