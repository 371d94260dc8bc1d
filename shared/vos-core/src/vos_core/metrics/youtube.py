"""YouTube-VOS: J and F averaged apart over seen and unseen categories (vos-core specification, section 2.6).

The challenge scores on its server only; this is the same arithmetic for local masks with a list of groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vos_core.errors import ScoreError
from vos_core.metrics.boundary import measure_pair
from vos_core.metrics.packed import LabelFrame
from vos_core.metrics.scores import Conclusion, ObjectScores, VideoScores, all_objects, unscored_warnings
from vos_core.metrics.source import Missing, VideoJob, VideoReader
from vos_core.metrics.summary import mean_of

GROUPS = ("seen", "unseen")


@dataclass(frozen=True, slots=True)
class YoutubeProtocol:
    """Every object from the frame after its first annotation on; overall score = mean of J and F in both groups.

    Args:
        missing: what an absent prediction is.
    """

    missing: Missing = "error"

    @property
    def name(self) -> str:
        """Name in `results.json`."""
        return "youtube-vos-groups"

    def score(self, job: VideoJob) -> VideoScores:
        """Return J and F of every listed object on the annotated frames."""
        reader = VideoReader(job, missing=self.missing)
        frames: dict[str, list[str]] = {key: [] for key in job.objects}
        values: dict[str, tuple[list[float], list[float]]] = {key: ([], []) for key in job.objects}
        started: set[str] = set()
        for name in reader.names:
            labels = reader.truth(name)
            truth = LabelFrame(labels)
            prediction = LabelFrame(reader.prediction(name, labels)) if started else None
            for key in started:
                assert prediction is not None  # read whenever an object has started
                j, f = measure_pair(truth.mask(int(key)), prediction.mask(int(key)))
                frames[key].append(name)
                values[key][0].append(j)
                values[key][1].append(f)
            for key, item in job.objects.items():
                first = item.get("first")
                if name == first or (first is None and truth.mask(int(key)).words.size):
                    started.add(key)
        absent = [key for key in job.objects if key not in started]
        if absent:
            raise ScoreError(
                f"video {job.video}: object {absent[0]} is in no ground truth mask of {job.truth}",
                fix="Check that the meta or groups file belongs to these annotations",
            )
        objects = tuple(
            ObjectScores(
                job.video, key, key, tuple(frames[key]), {"J": values[key][0], "F": values[key][1]}, {"group": item["group"]}
            )
            for key, item in job.objects.items()
        )
        return VideoScores(job.video, objects, reader.warnings())

    def conclude(self, videos: Sequence[VideoScores]) -> Conclusion:
        """Return J and F of the seen and unseen groups and their mean; an empty group is left out with a warning."""
        objects = all_objects(videos)
        rows = [{metric: mean_of(item.values[metric]) for metric in ("J", "F")} for item in objects]
        groups = {
            f"{metric}-{group}": mean_of(
                [row[metric] for item, row in zip(objects, rows, strict=True) if item.details["group"] == group]
            )
            for metric in ("J", "F")
            for group in GROUPS
        }
        empty = [group for group in GROUPS if not any(item.details["group"] == group for item in objects)]
        warnings = tuple(f"no {group} object: the overall score is the mean of the other group" for group in empty)
        return Conclusion({"G": mean_of(list(groups.values())), **groups}, rows, {}, (*unscored_warnings(objects), *warnings))


def youtube_jobs(
    truth_root: Path, prediction_root: Path, *, groups: Mapping[str, Any], meta: Mapping[str, Any] | None = None
) -> list[VideoJob]:
    """Return the videos with the group of every object.

    Args:
        truth_root: folder of the annotations, one sub-folder per video.
        prediction_root: folder of the results.
        groups: either `{video: {object: "seen" | "unseen"}}`, or `{"seen": [category, ...]}` and/or `{"unseen": [...]}`; then
            `meta` gives each object's category and a category that is not listed is in the other group.
        meta: YouTube-VOS's meta.json; its first frame of an object is where that object's mask is given.

    Raises:
        ScoreError: a group is neither seen nor unseen, or an object has no category.
    """
    described = {} if meta is None else _videos(meta)
    by_category = set(groups) <= set(GROUPS) and all(isinstance(names, list) for names in groups.values())
    if by_category and meta is None:
        raise ScoreError(
            "the groups file lists categories", expected="a meta file that gives each object's category", fix="Pass --meta"
        )
    listed = {video: dict.fromkeys(objects) for video, objects in described.items()} if by_category else groups
    jobs = []
    for video, members in listed.items():
        objects = {}
        for key, group in members.items():
            about = described.get(video, {}).get(key, {})
            chosen = _group_of(groups, about, video=video, key=key) if by_category else group
            if chosen not in GROUPS:
                raise ScoreError(f"video {video}, object {key}: its group is {chosen!r}", expected="seen or unseen")
            objects[str(key)] = {"group": chosen, "first": (about.get("frames") or [None])[0]}
        jobs.append(VideoJob(video, truth_root / video, prediction_root / video, objects=objects))
    return jobs


def _videos(meta: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    try:
        return {name: video["objects"] for name, video in meta["videos"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ScoreError(
            f"the meta file is not YouTube-VOS's: {type(error).__name__} {error}",
            expected='{"videos": {name: {"objects": {id: {"category", "frames"}}}}}',
        ) from error


def _group_of(groups: Mapping[str, Any], about: Mapping[str, Any], *, video: str, key: str) -> str:
    category = about.get("category")
    if category is None:
        raise ScoreError(
            f"video {video}, object {key}: the meta file gives no category",
            fix="Use the train meta.json, or a groups file that lists every object",
        )
    for group in GROUPS:
        if category in groups.get(group, ()):
            return group
    if len(groups) == 1:
        return "unseen" if "seen" in groups else "seen"
    raise ScoreError(f"video {video}, object {key}: category {category} is in neither group")
