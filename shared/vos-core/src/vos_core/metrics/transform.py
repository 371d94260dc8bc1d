"""VOST: J over all scored frames and over the last quarter, where objects have changed most (specification, section 2.6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vos_core.metrics.davis import dataset_means, flat_summaries
from vos_core.metrics.packed import LabelFrame
from vos_core.metrics.region import jaccard
from vos_core.metrics.scores import Conclusion, ObjectScores, VideoScores, all_objects, unscored_warnings
from vos_core.metrics.source import Missing, VideoJob, VideoReader, without
from vos_core.metrics.summary import summarise
from vos_core.metrics.tables import csv_text
from vos_core.types import VOID

LAST_FROM = 0.75


@dataclass(frozen=True, slots=True)
class VostProtocol:
    """J of objects 1..highest id of the first frame; ids above are cut off, 255 is background on both sides.

    Args:
        set_name: suffix of the official files.
        missing: what an absent prediction is.
        legacy_decay: the tool's 8-bit decay for videos of 256 scored frames and more.
    """

    set_name: str = "val"
    missing: Missing = "error"
    legacy_decay: bool = False

    @property
    def name(self) -> str:
        """Name in `results.json`."""
        return "vost"

    def score(self, job: VideoJob) -> VideoScores:
        """Return J of every object of the first frame."""
        reader = VideoReader(job, missing=self.missing)
        count = LabelFrame(reader.truth(reader.names[0])).highest
        scored = tuple(reader.names[1:-1])
        values: list[list[float]] = [[] for _ in range(count)]
        for name in scored:
            labels = reader.truth(name)
            truth, prediction = LabelFrame(labels), LabelFrame(without(reader.prediction(name, labels), VOID))
            for k, j in enumerate(values, start=1):
                j.append(jaccard(truth.mask(k), prediction.mask(k)))
        objects = tuple(ObjectScores(job.video, str(k), str(k), scored, {"J": j}) for k, j in enumerate(values, start=1))
        return VideoScores(job.video, objects, reader.warnings())

    def conclude(self, videos: Sequence[VideoScores]) -> Conclusion:
        """Return means over objects and the two CSV files."""
        objects = all_objects(videos)
        rows = [
            {
                "J": summarise(item.values["J"], legacy_decay=self.legacy_decay),
                "J_last": summarise(last_quarter(item.values["J"]), legacy_decay=self.legacy_decay),
            }
            for item in objects
        ]
        scores = dataset_means(rows, ("J", "J_last"))
        tables = {
            f"global_results-{self.set_name}.csv": csv_text(list(scores), [list(scores.values())], decimals=6),
            f"per-sequence_results-{self.set_name}.csv": csv_text(
                ["Sequence", "J-Mean", "J_last-Mean"],
                [
                    (f"{item.video}_{item.row}", row["J"].mean, row["J_last"].mean)
                    for item, row in zip(objects, rows, strict=True)
                ],
                decimals=6,
            ),
        }
        return Conclusion(scores, [flat_summaries(row) for row in rows], tables, unscored_warnings(objects))


def last_quarter(values: Sequence[float]) -> Sequence[float]:
    """Return the values of the last quarter of the scored frames."""
    return values[math.floor(LAST_FROM * len(values)) :]
