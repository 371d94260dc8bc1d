"""The `scores` of a run record as typed rows: one per object, with the value of every scored frame where there is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vos_core.types import RunRecord


@dataclass(frozen=True, slots=True)
class ObjectScore:
    """Scores of one object in one clip, 0-1; None or empty where a protocol gives none.

    Args:
        clip: name of the clip.
        object_id: original id, or a name where the protocol has names.
        j: mean region similarity.
        f: mean boundary measure.
        frames: names of the scored frames.
        j_frames: J of each of `frames`.
        f_frames: F of each of `frames`.
    """

    clip: str
    object_id: str
    j: float | None
    f: float | None
    frames: tuple[str, ...] = ()
    j_frames: tuple[float | None, ...] = ()
    f_frames: tuple[float | None, ...] = ()

    @property
    def jf(self) -> float | None:
        """Mean of `j` and `f`; None if one is missing."""
        return mean_of_known((self.j, self.f)) if self.j is not None and self.f is not None else None

    def frame_scores(self) -> tuple[float | None, ...]:
        """Return the mean of J and F of each frame."""
        return tuple(mean_of_known(pair) for pair in zip(self.j_frames, self.f_frames, strict=True))


def object_scores(record: RunRecord) -> tuple[ObjectScore, ...]:
    """Return the object rows of `record`; empty if it was not scored."""
    rows: Sequence[Any] = (record.scores or {}).get("per_object", ())
    return tuple(
        ObjectScore(
            clip=str(row["clip"]),
            object_id=str(row["object"]),
            j=known(row.get("J")),
            f=known(row.get("F")),
            frames=tuple(row.get("frames", ())),
            j_frames=tuple(known(value) for value in row.get("J_frames", ())),
            f_frames=tuple(known(value) for value in row.get("F_frames", ())),
        )
        for row in rows
    )


def clip_score(record: RunRecord, clip: str) -> float | None:
    """Return J&F of one clip: the mean over its objects; None if it was not scored."""
    return mean_of_known([row.jf for row in object_scores(record) if row.clip == clip])


def frame_means(record: RunRecord, clip: str) -> dict[str, float]:
    """Return frame name -> J&F, the mean over the objects scored in that frame, in frame order."""
    values: dict[str, list[float]] = {}
    for row in object_scores(record):
        if row.clip == clip:
            for frame, value in zip(row.frames, row.frame_scores(), strict=True):
                if value is not None:
                    values.setdefault(frame, []).append(value)
    return {frame: sum(values[frame]) / len(values[frame]) for frame in sorted(values)}


def known(value: Any) -> float | None:
    """Return a number as float; None for None and NaN."""
    return None if value is None or math.isnan(value) else float(value)


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if there is none."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
