"""Scores of a run over described clips: every object on the annotated frames after the one that prompted it.

The one rule behind all tables of runs. On clips whose every frame is annotated it is the official DAVIS protocol (2017, and 2016
for merged masks): the first frame, which prompted, and the last one are left out. Sparse truth keeps its last mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vos_core.errors import VosError
from vos_core.io.frames import open_clip
from vos_core.io.masks import read_clip_mask
from vos_core.metrics.boundary import measure_pair
from vos_core.metrics.evaluate import Progress, score_videos
from vos_core.metrics.scores import Conclusion, ObjectScores, VideoScores, all_objects
from vos_core.metrics.source import Missing, VideoJob, VideoReader
from vos_core.metrics.summary import mean_of
from vos_core.types import Clip

OnError = Literal["raise", "list"]
"""What becomes of a clip whose masks cannot be scored: it stops all, or is left out and named."""


@dataclass(frozen=True, slots=True)
class ClipProtocol:
    """J and F of the objects that a method was given, on the truth that it was not given.

    An object is scored on every annotated frame after the one that prompted it, also where it is gone; where every frame from the
    first mask to the end is annotated, the last one is left out as in the official DAVIS tool. Unlike there, gaps in the ids are
    no objects, predicted ids that no prompt gave are ignored, and truth may be one pixel off the frame, as runs accept it.

    Args:
        missing: what an absent prediction is.
        on_error: what becomes of a clip that cannot be scored.
    """

    missing: Missing = "error"
    on_error: OnError = "raise"

    @property
    def name(self) -> str:
        """Name in run records."""
        return "clips"

    def score(self, job: VideoJob) -> VideoScores:
        """Return the scores of one clip; no objects, and the reason, if it has no truth beyond the prompts."""
        try:
            return self._score(job)
        except VosError as error:
            if self.on_error == "raise":
                raise
            return VideoScores(job.video, (), unscored=str(error))

    def conclude(self, videos: Sequence[VideoScores]) -> Conclusion:
        """Return means over all objects."""
        rows = [{metric: mean_of(item.values[metric]) for metric in ("J", "F")} for item in all_objects(videos)]
        j, f = (mean_of([row[metric] for row in rows]) for metric in ("J", "F"))
        return Conclusion({"J&F": (j + f) / 2, "J": j, "F": f}, rows, {})

    def _score(self, job: VideoJob) -> VideoScores:
        clip = job.clip
        assert clip is not None
        if clip.mask_kind == "objects":
            return VideoScores(clip.name, (), unscored="its truth has a folder for each object; score it with vos eval sav")
        names, dense = annotated_frames(clip)
        if len(names) < 2:
            return VideoScores(clip.name, (), unscored="no ground truth beyond the prompt")
        reader = VideoReader(job, missing=self.missing, binary=clip.mask_kind == "binary", rounding="fit")
        scored = {name for name in (names[:-1] if dense else names) if clip.outputs is None or name in clip.outputs}
        values: dict[int, tuple[list[str], list[float], list[float]]] = {}
        is_truth = False
        for name in names:
            labels = read_clip_mask(clip, name)
            truth = reader.frame(labels)
            # A mask that only brings new objects is a prompt; one that shows none but those known before is truth.
            ids = [k for k in truth.ids() if clip.object_ids is None or k in clip.object_ids]
            is_truth = is_truth or (bool(values) and values.keys() >= set(ids))
            if values and name in scored:
                prediction = reader.frame(reader.prediction(name, labels))
                for k, (frames, j, f) in values.items():
                    pair = measure_pair(truth.mask(k), prediction.mask(k))
                    frames.append(name)
                    j.append(pair[0])
                    f.append(pair[1])
            if not values or clip.prompt_rule == "first_seen":
                for k in ids:
                    values.setdefault(k, ([], [], []))
        if not is_truth:
            return VideoScores(clip.name, (), unscored="no ground truth beyond the prompts")
        objects = tuple(
            ObjectScores(clip.name, str(k), str(k), tuple(frames), {"J": j, "F": f})
            for k, (frames, j, f) in sorted(values.items())
            if frames
        )
        why = "" if objects else "no frame to score between the prompt and the last frame, which is left out"
        return VideoScores(clip.name, objects, reader.warnings(), unscored=why)


def evaluate_clips(
    clips: Sequence[Clip],
    prediction_root: Path,
    *,
    processes: int | None = 1,
    missing: Missing = "error",
    on_error: OnError = "raise",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the scores of a run by `ClipProtocol`, as run records hold them.

    Args:
        clips: the clips, with their annotations.
        prediction_root: folder of the masks, `<clip>/<frame>.png`.
        processes: worker processes; None = one per CPU.
        missing: what an absent prediction is.
        on_error: `list` names clips that cannot be scored in `unscored` instead of raising.
        progress: called after each clip, in any order.

    Returns:
        `protocol`; means over objects `J&F`, `J`, `F` (0-1, None without truth); `objects`, their number; `per_object` rows with
        `clip`, `object`, `J&F`, `J`, `F`, `frames`, `J_frames`, `F_frames`; `unscored`, clip name -> why; `warnings`.

    Raises:
        VosError: a mask that is missing, damaged or of another size.
    """
    rules = ClipProtocol(missing=missing, on_error=on_error)
    root = Path(prediction_root)
    jobs = [VideoJob(clip.name, root, root / clip.name, truth_files=clip.annotations, clip=clip) for clip in clips]
    videos = score_videos(rules, jobs, processes=processes, progress=progress) if jobs else []
    conclusion = rules.conclude(videos)
    rows = [_row(item, summary) for item, summary in zip(all_objects(videos), conclusion.objects, strict=True)]
    return {
        "protocol": rules.name,
        **{key: None if math.isnan(value) else value for key, value in conclusion.scores.items()},
        "objects": len(rows),
        "per_object": rows,
        "unscored": {video.video: video.unscored for video in videos if not video.objects},
        "warnings": [warning for video in videos for warning in video.warnings],
    }


def annotated_frames(clip: Clip) -> tuple[list[str], bool]:
    """Return the names of the annotated frames in time order, and whether they are all frames from the first of them on."""
    if clip.video is None:
        return _annotated(clip, [path.stem for path in clip.frames] or sorted(clip.annotations))
    if len(clip.annotations) < 2:
        return sorted(clip.annotations), False  # the video need not be opened
    with closing(open_clip(clip)) as source:
        return _annotated(clip, source.names)


def _annotated(clip: Clip, frames: Iterable[str]) -> tuple[list[str], bool]:
    every = list(frames)
    names = [name for name in every if name in clip.annotations]
    return names, bool(names) and names == every[every.index(names[0]) :]


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
