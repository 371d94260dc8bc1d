"""Scores of a run over described clips: every object on the annotated frames after the one that prompted it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vos_core.io.masks import read_clip_mask
from vos_core.metrics.boundary import measure_pair
from vos_core.metrics.evaluate import Progress, score_videos
from vos_core.metrics.scores import Conclusion, ObjectScores, VideoScores, all_objects
from vos_core.metrics.source import Missing, VideoJob, VideoReader
from vos_core.metrics.summary import mean_of
from vos_core.types import Clip

ClipRule = Literal["folder", "davis"]


@dataclass(frozen=True, slots=True)
class ClipProtocol:
    """J and F of the objects that a method was given, on the truth that it was not given.

    Args:
        rule: `folder` scores every annotated frame after an object's prompt; `davis` also leaves the last annotated frame out, as
            the official tool does.
        missing: what an absent prediction is.
    """

    rule: ClipRule = "folder"
    missing: Missing = "error"

    @property
    def name(self) -> str:
        """Name in run records."""
        return self.rule

    def score(self, job: VideoJob) -> VideoScores:
        """Return the scores of one clip; no objects if it has no truth beyond the prompts."""
        clip = job.clip
        assert clip is not None
        names = annotated_frames(clip)
        if len(names) < 2:
            return VideoScores(clip.name, ())
        reader = VideoReader(job, missing=self.missing, binary=clip.mask_kind == "binary")
        values: dict[int, tuple[list[str], list[float], list[float]]] = {}
        known = False
        for index, name in enumerate(names):
            labels = read_clip_mask(clip, name)
            truth = reader.frame(labels)
            last = self.rule == "davis" and index == len(names) - 1
            if values and not last and (clip.outputs is None or name in clip.outputs):
                prediction = reader.frame(reader.prediction(name, labels))
                for k, (frames, j, f) in values.items():
                    mask = truth.mask(k)
                    known = known or mask.words.size > 0
                    pair = measure_pair(mask, prediction.mask(k))
                    frames.append(name)
                    j.append(pair[0])
                    f.append(pair[1])
            if index == 0 or clip.prompt_rule == "first_seen":
                for k in truth.ids():
                    if clip.object_ids is None or k in clip.object_ids:
                        values.setdefault(k, ([], [], []))
        if not known:
            # Each annotation only brought new objects: they are prompts, not truth.
            return VideoScores(clip.name, ())
        objects = tuple(
            ObjectScores(clip.name, str(k), str(k), tuple(frames), {"J": j, "F": f})
            for k, (frames, j, f) in sorted(values.items())
            if frames
        )
        return VideoScores(clip.name, objects, reader.warnings())

    def conclude(self, videos: Sequence[VideoScores]) -> Conclusion:
        """Return means over all objects."""
        rows = [{metric: mean_of(item.values[metric]) for metric in ("J", "F")} for item in all_objects(videos)]
        j, f = (mean_of([row[metric] for row in rows]) for metric in ("J", "F"))
        return Conclusion({"J&F": (j + f) / 2, "J": j, "F": f}, rows, {})


def evaluate_clips(
    clips: Sequence[Clip],
    prediction_root: Path,
    *,
    protocol: ClipRule = "folder",
    processes: int | None = 1,
    missing: Missing = "error",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the scores of a run, as run records hold them.

    Args:
        clips: the clips, with their annotations.
        prediction_root: folder of the masks, `<clip>/<frame>.png`.
        protocol: see `ClipProtocol`.
        processes: worker processes; None = one per CPU.
        missing: what an absent prediction is.
        progress: called after each clip, in any order.

    Returns:
        `protocol`; means over objects `J&F`, `J`, `F` (0-1, None without truth); `per_object` rows with `clip`, `object`, `J&F`,
        `J`, `F`, `frames`, `J_frames`, `F_frames`; `no_ground_truth`, the clips without truth beyond prompts; `warnings`.

    Raises:
        VosError: a mask that is missing, damaged or of another size.
    """
    rules = ClipProtocol(rule=protocol, missing=missing)
    root = Path(prediction_root)
    jobs = [VideoJob(clip.name, root, root / clip.name, truth_files=clip.annotations, clip=clip) for clip in clips]
    videos = score_videos(rules, jobs, processes=processes, progress=progress) if jobs else []
    conclusion = rules.conclude(videos)
    return {
        "protocol": protocol,
        **{key: None if math.isnan(value) else value for key, value in conclusion.scores.items()},
        "per_object": [_row(item, summary) for item, summary in zip(all_objects(videos), conclusion.objects, strict=True)],
        "no_ground_truth": [video.video for video in videos if not video.objects],
        "warnings": [warning for video in videos for warning in video.warnings],
    }


def annotated_frames(clip: Clip) -> list[str]:
    """Return the names of the annotated frames in time order."""
    if clip.frames:
        return [path.stem for path in clip.frames if path.stem in clip.annotations]
    return sorted(clip.annotations)


def _row(item: ObjectScores, summary: Mapping[str, float]) -> dict[str, Any]:
    return {
        "clip": item.video,
        "object": item.object_id,
        "J&F": (summary["J"] + summary["F"]) / 2,
        "J": summary["J"],
        "F": summary["F"],
        "frames": list(item.frames),
        "J_frames": list(item.values["J"]),
        "F_frames": list(item.values["F"]),
    }
