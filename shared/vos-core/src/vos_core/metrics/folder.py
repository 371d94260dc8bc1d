"""Folder against folder, the rules of vos-benchmark, and SA-V with one folder per object (specification, section 2.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vos_core.errors import ScoreError
from vos_core.metrics.boundary import measure_pair
from vos_core.metrics.packed import LabelFrame, empty, pack
from vos_core.metrics.scores import Conclusion, ObjectScores, VideoScores, all_objects
from vos_core.metrics.source import (
    Missing,
    VideoJob,
    VideoReader,
    absent_warning,
    check_size,
    list_folders,
    list_masks,
    read_labels,
)
from vos_core.metrics.summary import mean_of
from vos_core.metrics.tables import folder_table


@dataclass(frozen=True, slots=True)
class FolderProtocol:
    """vos-benchmark: every id of the truth, from the frame on where truth or prediction first shows it.

    Args:
        skip_first_and_last: leave the first and last ground truth frame out.
        binary: merge all objects on both sides.
        missing: what an absent prediction is.
    """

    skip_first_and_last: bool = True
    binary: bool = False
    missing: Missing = "error"

    @property
    def name(self) -> str:
        """Name in `results.json`."""
        return "vos-benchmark"

    def score(self, job: VideoJob) -> VideoScores:
        """Return J and F of every object that the scored truth shows."""
        reader = VideoReader(job, missing=self.missing, binary=self.binary, truth_void=None)
        names = reader.names[1:-1] if self.skip_first_and_last else reader.names
        clock = ObjectClock()
        for name in names:
            clock.add(name, *reader.pair(name))
        return VideoScores(job.video, clock.objects(job.video), reader.warnings())

    def conclude(self, videos: Sequence[VideoScores]) -> Conclusion:
        """Return means over objects and `results.csv`."""
        return conclude_folder(videos)


class ObjectClock:
    """Scores each object from the frame on where truth or prediction first shows it; keeps those that the truth ever shows."""

    def __init__(self) -> None:
        self._values: dict[int, tuple[list[str], list[float], list[float]]] = {}
        self._true: set[int] = set()

    def add(self, name: str, truth: LabelFrame, prediction: LabelFrame) -> None:
        """Score one frame."""
        ids = truth.ids()
        self._true.update(ids)
        for k in (*ids, *prediction.ids()):
            self._values.setdefault(k, ([], [], []))
        for k, (frames, j, f) in self._values.items():
            pair = measure_pair(truth.mask(k), prediction.mask(k))
            frames.append(name)
            j.append(pair[0])
            f.append(pair[1])

    def objects(self, video: str) -> tuple[ObjectScores, ...]:
        """Return the objects in rising order of their ids."""
        return tuple(
            ObjectScores(video, str(k), str(k), tuple(frames), {"J": j, "F": f})
            for k, (frames, j, f) in sorted(self._values.items())
            if k in self._true
        )


@dataclass(frozen=True, slots=True)
class SavProtocol:
    """SA-V: as vos-benchmark, but a video folder may hold one folder of binary masks per object, which may overlap.

    Args:
        skip_first_and_last: leave each object's first and last annotated frame out.
        missing: what an absent prediction is.
    """

    skip_first_and_last: bool = True
    missing: Missing = "error"

    @property
    def name(self) -> str:
        """Name in `results.json`."""
        return "sa-v"

    def score(self, job: VideoJob) -> VideoScores:
        """Return J and F of every object; objects are named by their folders."""
        folders = list_folders(job.truth)
        if not folders:
            return FolderProtocol(skip_first_and_last=self.skip_first_and_last, missing=self.missing).score(job)
        objects, absent = [], 0
        for folder in folders:
            item, lost = self._score_object(job, folder)
            absent += lost
            if item is not None:
                objects.append(item)
        return VideoScores(job.video, tuple(objects), absent_warning(job.video, absent))

    def conclude(self, videos: Sequence[VideoScores]) -> Conclusion:
        """Return means over objects and `results.csv`."""
        return conclude_folder(videos)

    def _score_object(self, job: VideoJob, folder: str) -> tuple[ObjectScores | None, int]:
        truth_files, predictions = list_masks(job.truth / folder), list_masks(job.prediction / folder)
        if not truth_files:
            raise ScoreError(f"video {job.video}, object {folder}: no ground truth PNG in {job.truth / folder}")
        names = list(truth_files)[1:-1] if self.skip_first_and_last else list(truth_files)
        frames: list[str] = []
        j: list[float] = []
        f: list[float] = []
        shown, absent = False, 0
        for name in names:
            where = f"{name} of object {folder}"
            labels = read_labels(truth_files[name], video=job.video, frame=where)
            truth = pack(labels)
            prediction = empty(*labels.shape)
            if name in predictions:
                guess = read_labels(predictions[name], video=job.video, frame=where)
                check_size(guess, labels, video=job.video, frame=where, path=predictions[name])
                prediction = pack(guess)
            else:
                absent += 1
                if self.missing == "error":
                    raise _missing_object_mask(job, folder, name)
            shown = shown or bool(truth.words.size)
            if frames or truth.words.size or prediction.words.size:
                pair = measure_pair(truth, prediction)
                frames.append(name)
                j.append(pair[0])
                f.append(pair[1])
        return (ObjectScores(job.video, folder, folder, tuple(frames), {"J": j, "F": f}) if shown else None), absent


def conclude_folder(videos: Sequence[VideoScores]) -> Conclusion:
    """Return the means over objects and vos-benchmark's `results.csv`, whose videos are in name order."""
    objects = all_objects(videos)
    rows = [{metric: mean_of(item.values[metric]) for metric in ("J", "F")} for item in objects]
    j, f = (mean_of([row[metric] for row in rows]) for metric in ("J", "F"))
    lines = sorted(
        ((item.video, item.row, 100 * row["J"], 100 * row["F"]) for item, row in zip(objects, rows, strict=True)),
        key=lambda line: line[0],
    )
    table = folder_table(lines, (50 * (j + f), 100 * j, 100 * f))
    warnings = tuple(f"video {video.video}: no object in the scored ground truth frames" for video in videos if not video.objects)
    return Conclusion({"J&F": (j + f) / 2, "J": j, "F": f}, rows, {"results.csv": table}, warnings)


def pair_folders(truth_root: Path, prediction_root: Path, *, strict: bool = False) -> tuple[list[VideoJob], list[str]]:
    """Return the videos that both folders hold, in name order, and the names that only one of them has.

    A truth folder that holds `Annotations` is descended into if the two lists differ in length, as vos-benchmark does.

    Raises:
        ScoreError: there is no common video, or `strict` and the lists differ.
    """
    truth, prediction = list_folders(truth_root), list_folders(prediction_root)
    if len(truth) != len(prediction) and "Annotations" in truth:
        truth_root = truth_root / "Annotations"
        truth = list_folders(truth_root)
    common = sorted(set(truth) & set(prediction))
    differing = sorted(set(truth) ^ set(prediction))
    if strict and differing:
        raise ScoreError(
            f"{truth_root} and {prediction_root} differ in {len(differing)} videos: {', '.join(differing[:10])}",
            expected="the same videos on both sides",
            fix="Add the missing results or leave out --strict to score the common videos",
        )
    if not common:
        raise ScoreError(
            f"{truth_root} ({len(truth)} folders) and {prediction_root} ({len(prediction)} folders) have no video in common",
            expected="one sub-folder of PNG masks per video, with the same names on both sides",
        )
    return [VideoJob(name, truth_root / name, prediction_root / name) for name in common], differing


def _missing_object_mask(job: VideoJob, folder: str, name: str) -> ScoreError:
    return ScoreError(
        f"video {job.video}, object {folder}, frame {name}: no predicted mask {job.prediction / folder / (name + '.png')}",
        fix="Write a mask for every annotated frame, or pass --missing empty to score absent masks as empty",
    )
