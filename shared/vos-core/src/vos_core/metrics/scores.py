"""Scores of objects, videos and data sets as values that can be sent between processes and stored as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vos_core.metrics.source import VideoJob


@dataclass(frozen=True, slots=True)
class ObjectScores:
    """One object of one video.

    Args:
        video: name of the video.
        object_id: name of the object in the truth.
        row: what follows the video name in the official tables; differs from `object_id` where a tool counts otherwise.
        frames: names of the scored frames.
        values: metric -> one value per scored frame, 0-1.
        details: what else is known about the object, such as the matched proposal.
    """

    video: str
    object_id: str
    row: str
    frames: tuple[str, ...]
    values: Mapping[str, Sequence[float]]
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VideoScores:
    """The objects of one video in the order of the official tables, and what the user should know about them.

    `unscored` says why there are none, where a protocol leaves videos out instead of refusing them.
    """

    video: str
    objects: tuple[ObjectScores, ...]
    warnings: tuple[str, ...] = ()
    unscored: str = ""


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What a protocol makes of all videos.

    Args:
        scores: dataset values, 0-1; NaN if there is nothing to average.
        objects: per object its summary values, in the order of `objects` over all videos.
        tables: name -> text of the files that the official tool writes.
        warnings: what the user should know about the data set as a whole.
    """

    scores: Mapping[str, float]
    objects: Sequence[Mapping[str, float]]
    tables: Mapping[str, str]
    warnings: tuple[str, ...] = ()


class ScoringProtocol(Protocol):
    """A benchmark's rules: which frames, which objects, which metrics, which means. Picklable."""

    @property
    def name(self) -> str:
        """What `results.json` calls it."""
        ...

    def score(self, job: VideoJob) -> VideoScores:
        """Return the per-frame values of one video, reading it frame by frame."""
        ...

    def conclude(self, videos: Sequence[VideoScores]) -> Conclusion:
        """Return the dataset's values and the official files."""
        ...


def all_objects(videos: Sequence[VideoScores]) -> list[ObjectScores]:
    """Return the objects of all videos in order."""
    return [item for video in videos for item in video.objects]


def unscored_warnings(objects: Sequence[ObjectScores]) -> tuple[str, ...]:
    """Return a warning for each object that has no frames to score and is left out of means."""
    return tuple(
        f"video {item.video}, object {item.object_id}: no frames to score, left out of the means"
        for item in objects
        if not item.frames
    )
