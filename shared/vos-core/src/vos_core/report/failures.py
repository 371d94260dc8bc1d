"""Where a run goes wrong: its worst frames, objects that it lost and objects that it took for one another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vos_core.errors import MaskError
from vos_core.io.masks import read_clip_mask, read_mask
from vos_core.report.scores import ObjectScore, object_scores
from vos_core.types import Clip, LabelMap, RunRecord

LOST_BELOW = 0.1
"""J under which an object counts as not followed in a frame."""
LOST_FRAMES = 3
"""Frames in a row that make a loss; a single bad frame is noise or an occlusion."""
SWAPPED_SHARE = 0.5
"""Share of an object's true pixels that carry another object's id."""
_MIN_AREA = 16  # pixels; fewer say nothing about which object a method saw


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that went wrong.

    Args:
        kind: `worst` a bad frame, `lost` a run of frames without the object, `swapped` frames where another id covers it.
        clip: name of the clip.
        object_id: the true object.
        frame: where it is worst (`worst`) or begins (`lost`, `swapped`).
        severity: 0-1, larger is worse; the list is sorted by it.
        detail: one phrase for a table.
    """

    kind: Literal["worst", "lost", "swapped"]
    clip: str
    object_id: str
    frame: str
    severity: float
    detail: str


def worst_frames(record: RunRecord, *, count: int = 10) -> list[Failure]:
    """Return the `count` lowest frame scores, at most one for each object, lowest first."""
    found = []
    for row in object_scores(record):
        scored = [(value, frame) for frame, value in zip(row.frames, row.frame_scores(), strict=True) if value is not None]
        if scored:
            value, frame = min(scored)
            if value < 1.0:
                found.append(Failure("worst", row.clip, row.object_id, frame, 1.0 - value, f"J&F {100 * value:.1f}"))
    return _sorted(found)[:count]


def lost_objects(record: RunRecord) -> list[Failure]:
    """Return the objects whose J stays below 0.1 for three scored frames or more, those lost for the longest share first."""
    found = []
    for row in object_scores(record):
        start, length = _longest_loss(row)
        if length >= LOST_FRAMES:
            end = start + length
            rest = "to the end" if end == len(row.frames) else f"until {row.frames[end]}"
            share = length / len(row.frames)
            found.append(Failure("lost", row.clip, row.object_id, row.frames[start], share, f"{length} frames, {rest}"))
    return _sorted(found)


def swapped_objects(clip: Clip, folder: Path) -> list[Failure]:
    """Return the objects whose true pixels mostly carry another object's id, by the share of frames where they do.

    Args:
        clip: gives the truth; frames without a mask on either side are left out.
        folder: the run's masks of this clip.

    Raises:
        MaskError: a mask that cannot be read, or truth and result of different sizes.
    """
    frames: dict[tuple[int, int], list[str]] = {}
    present: dict[int, int] = {}
    for name in sorted(clip.annotations):
        path = folder / f"{name}.png"
        if not path.is_file():
            continue
        found = read_mask(path)
        truth = read_clip_mask(clip, name, found.shape)
        for object_id, other in _takers(truth, found, clip.void).items():
            present[object_id] = present.get(object_id, 0) + 1
            if other:
                frames.setdefault((object_id, other), []).append(name)
    return _sorted(
        Failure(
            "swapped", clip.name, str(object_id), names[0], len(names) / present[object_id],
            f"taken for object {other} in {len(names)} of {present[object_id]} frames",
        )
        for (object_id, other), names in frames.items()
    )  # fmt: skip


def failures(record: RunRecord, clips: Sequence[Clip] = (), *, count: int = 10) -> list[Failure]:
    """Return swapped and lost objects and the worst frames of a run, at most `count` of each kind.

    Clips whose masks cannot be read are left out of the search for swaps: their failure stands in the record.
    """
    swapped: list[Failure] = []
    done = {clip.name for clip in record.clips if clip.status == "done"}
    for clip in clips:
        if record.output and clip.name in done and len(clip.annotations) > 1:
            try:
                swapped += swapped_objects(clip, Path(record.output) / clip.name)
            except MaskError:
                continue
    return [*_sorted(swapped)[:count], *lost_objects(record)[:count], *worst_frames(record, count=count)]


def _takers(truth: LabelMap, found: LabelMap, void: int | None) -> dict[int, int]:
    """Return true id -> the other true object's id that covers most of it, or 0."""
    ids = [int(i) for i in np.unique(truth) if i and i != (void if void is not None else 0)]
    takers = {}
    for object_id in ids:
        values = found[truth == object_id]
        if values.size < _MIN_AREA:
            continue
        counts = {other: int((values == other).sum()) for other in ids if other != object_id}
        other = max(counts, key=lambda i: counts[i], default=0)
        takers[object_id] = other if other and counts[other] > SWAPPED_SHARE * values.size else 0
    return takers


def _longest_loss(row: ObjectScore) -> tuple[int, int]:
    best, start = (0, 0), 0
    for index, value in enumerate(row.j_frames):
        if value is None or value >= LOST_BELOW:
            start = index + 1
        elif index + 1 - start > best[1]:
            best = (start, index + 1 - start)
    return best


def _sorted(found: Iterable[Failure]) -> list[Failure]:
    return sorted(found, key=lambda item: (-item.severity, item.clip, item.object_id))
