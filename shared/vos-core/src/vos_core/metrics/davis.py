"""The DAVIS 2017 protocols, semi-supervised and unsupervised; DAVIS 2016 is their binary case (specification, section 2.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vos_core.errors import ScoreError
from vos_core.metrics.boundary import measure_pair
from vos_core.metrics.matching import PairTable, assign
from vos_core.metrics.packed import LabelFrame
from vos_core.metrics.scores import Conclusion, ObjectScores, VideoScores, all_objects, unscored_warnings
from vos_core.metrics.source import Missing, VideoJob, VideoReader, without
from vos_core.metrics.summary import Summary, mean_of, summarise
from vos_core.metrics.tables import csv_text
from vos_core.types import VOID

MAX_PROPOSALS = 20
STATISTICS = ("Mean", "Recall", "Decay")


@dataclass(frozen=True, slots=True)
class DavisSemi:
    """DAVIS 2017 semi-supervised: objects 1..highest id of the first frame, all annotated frames but the first and last.

    The 2016 tool's temporal instability T is not computed: no table that the methods publish uses it.

    Args:
        set_name: suffix of the official files.
        binary: merge all objects on both sides (DAVIS 2016).
        missing: what an absent prediction is.
        legacy_decay: the official tool's 8-bit decay for videos of 256 scored frames and more.
    """

    set_name: str = "val"
    binary: bool = False
    missing: Missing = "error"
    legacy_decay: bool = False

    @property
    def name(self) -> str:
        """Name in `results.json`."""
        return "davis2016" if self.binary else "davis2017-semi-supervised"

    def score(self, job: VideoJob) -> VideoScores:
        """Return J and F of every object; raises `ScoreError` if the prediction has an id above the object count."""
        reader = VideoReader(job, missing=self.missing, binary=self.binary)
        first = reader.frame(reader.truth(reader.names[0]))
        count, scored = first.highest, reader.names[1:-1]
        ghosts = sorted(set(range(1, count + 1)) - set(first.ids()))
        values = [([], []) for _ in range(count)]  # type: list[tuple[list[float], list[float]]]
        for name in scored:
            truth, prediction = reader.pair(name)
            if prediction.highest > count:
                raise ScoreError(
                    f"video {job.video}, frame {name}: {reader.prediction_files[name]} has the id {prediction.highest}",
                    expected=f"ids up to {count}, the highest in the first ground truth frame",
                    fix="Remove other ids from the result, or score it with the folder protocol",
                )
            for k, (j, f) in enumerate(values, start=1):
                pair = measure_pair(truth.mask(k), prediction.mask(k))
                j.append(pair[0])
                f.append(pair[1])
        objects = tuple(
            ObjectScores(job.video, str(k), str(k), tuple(scored), {"J": j, "F": f}) for k, (j, f) in enumerate(values, start=1)
        )
        return VideoScores(job.video, objects, (*_ghost_warning(job.video, ghosts), *reader.warnings()))

    def conclude(self, videos: Sequence[VideoScores]) -> Conclusion:
        """Return means over objects and the two CSV files; raises `ScoreError` if no video has a frame to score."""
        if not any(item.frames for item in all_objects(videos)):
            raise ScoreError(
                f"no frames to score in {', '.join(video.video for video in videos)}",
                expected="at least three annotated frames and one object in the first (the first and last frame are left out)",
            )
        return conclude_davis(videos, set_name=self.set_name, legacy_decay=self.legacy_decay)


@dataclass(frozen=True, slots=True)
class DavisUnsupervised:
    """DAVIS 2017 unsupervised: up to 20 proposals matched to the objects of a video, all frames, 255 in the truth is void.

    Args:
        set_name: suffix of the official files.
        missing: what an absent prediction is.
        max_proposals: highest id that a prediction may have.
        legacy_decay: the official tool's 8-bit decay for videos of 256 frames and more.
    """

    set_name: str = "val"
    missing: Missing = "error"
    max_proposals: int = MAX_PROPOSALS
    legacy_decay: bool = False

    @property
    def name(self) -> str:
        """Name in `results.json`."""
        return "davis2017-unsupervised"

    def score(self, job: VideoJob) -> VideoScores:
        """Return J and F of every object with its proposal, in the order of the matched proposals."""
        reader = VideoReader(job, missing=self.missing, truth_void=None)
        first = LabelFrame(without(reader.raw_truth(reader.names[0]), VOID))
        count = first.highest
        ghosts = sorted(set(range(1, count + 1)) - set(first.ids()))
        table = PairTable(range(1, count + 1))
        for name in reader.names:
            labels = reader.raw_truth(name)
            predicted = reader.prediction(name, labels)
            highest = int(predicted.max(initial=0))
            if highest > self.max_proposals:
                raise ScoreError(
                    f"video {job.video}, frame {name}: {reader.prediction_files[name]} has the id {highest}",
                    expected=f"proposals 1..{self.max_proposals}",
                    fix="Keep the best proposals only and number them from 1",
                )
            table.add(labels, predicted, proposals=range(1, highest + 1))
        j, f = table.stacked(range(1, max(table.highest_proposal, count) + 1))
        pairs = assign((j.mean(axis=2) + f.mean(axis=2)) / 2) if count else []
        objects = tuple(
            ObjectScores(
                job.video,
                str(k + 1),
                str(rank),
                tuple(reader.names),
                {"J": j[p, k].tolist(), "F": f[p, k].tolist()},
                {"matched_proposal": p + 1},
            )
            for rank, (p, k) in enumerate(pairs, start=1)
        )
        return VideoScores(job.video, objects, (*_ghost_warning(job.video, ghosts), *reader.warnings()))

    def conclude(self, videos: Sequence[VideoScores]) -> Conclusion:
        """Return means over objects and the two CSV files, whose rows count matched proposals as the official tool does."""
        return conclude_davis(videos, set_name=self.set_name, legacy_decay=self.legacy_decay)


def conclude_davis(videos: Sequence[VideoScores], *, set_name: str, legacy_decay: bool) -> Conclusion:
    """Return the means over all objects of all videos and the official tool's two CSV files."""
    objects = all_objects(videos)
    rows = [{metric: summarise(item.values[metric], legacy_decay=legacy_decay) for metric in ("J", "F")} for item in objects]
    scores = dataset_means(rows, ("J", "F"))
    scores = {"J&F-Mean": (scores["J-Mean"] + scores["F-Mean"]) / 2, **scores}
    tables = {
        f"global_results-{set_name}.csv": csv_text(list(scores), [list(scores.values())]),
        f"per-sequence_results-{set_name}.csv": csv_text(
            ["Sequence", "J-Mean", "F-Mean"],
            [(f"{item.video}_{item.row}", row["J"].mean, row["F"].mean) for item, row in zip(objects, rows, strict=True)],
        ),
    }
    return Conclusion(scores, [flat_summaries(row) for row in rows], tables, unscored_warnings(objects))


def dataset_means(rows: Sequence[dict[str, Summary]], metrics: Sequence[str]) -> dict[str, float]:
    """Return `<metric>-Mean`, `-Recall` and `-Decay` as means over objects; objects without frames are left out."""
    return {
        f"{metric}-{label}": mean_of([row[metric][k] for row in rows]) for metric in metrics for k, label in enumerate(STATISTICS)
    }


def flat_summaries(row: dict[str, Summary]) -> dict[str, float]:
    """Return one object's summaries as `<metric>-Mean`, `-Recall`, `-Decay`."""
    return {
        f"{metric}-{label}": value for metric, summary in row.items() for label, value in zip(STATISTICS, summary, strict=True)
    }


def server_scores_text(scores: Mapping[str, float]) -> str:
    """Return the text of `scores.txt` as the DAVIS server writes it."""
    names = {"GlobalMean": "J&F-Mean"} | {f"{m}{s}": f"{m}-{s}" for m in ("J", "F") for s in STATISTICS}
    return "".join(f"{name}: {scores[key]:f}\n" for name, key in names.items())


def _ghost_warning(video: str, ghosts: Sequence[int]) -> tuple[str, ...]:
    if not ghosts:
        return ()
    listed = ", ".join(map(str, ghosts))
    return (f"video {video}: ids {listed} are absent in the first frame but count as objects, as in the official tool",)
