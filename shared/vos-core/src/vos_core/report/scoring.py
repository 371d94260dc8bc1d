"""Scores a finished run against the truth of its clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vos_core.metrics.clips import evaluate_clips
from vos_core.types import Clip, RunRecord


def score_run(record: RunRecord, clips: Sequence[Clip]) -> RunRecord:
    """Return `record` with scores by `evaluate_clips`: J and F of every object in every scored frame, and their means, 0-1.

    A clip without truth, or whose masks cannot be scored, is listed with the reason in `unscored` and left out of the means.
    `scores` is None if no clip was scored.

    Args:
        record: `output` is the folder of its masks.
        clips: the clips that it ran over.
    """
    done = {clip.name for clip in record.clips if clip.status == "done"}
    ended = [clip for clip in clips if clip.name in done]
    scores = evaluate_clips(ended, Path(record.output or ""), on_error="list")
    if not scores["per_object"]:
        return replace(record, scores=None)
    unscored = {clip.name: scores["unscored"].get(clip.name, "not run to the end") for clip in clips}
    scored = {row["clip"] for row in scores["per_object"]}
    return replace(record, scores={**scores, "unscored": {name: why for name, why in unscored.items() if name not in scored}})
