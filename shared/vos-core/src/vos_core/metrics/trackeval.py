"""TrackEval's J&F: tracks matched by J, all frames, 255 in the truth is void (specification, section 2.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vos_core.metrics.davis import dataset_means, flat_summaries
from vos_core.metrics.matching import PairTable, assign
from vos_core.metrics.packed import LabelFrame
from vos_core.metrics.scores import Conclusion, ObjectScores, VideoScores, all_objects, unscored_warnings
from vos_core.metrics.source import Missing, VideoJob, VideoReader
from vos_core.metrics.summary import summarise
from vos_core.types import VOID

RECALL_ABOVE = 0.5 + 2.0**-52


@dataclass(frozen=True, slots=True)
class TrackEvalProtocol:
    """Every id of the truth against every id of the prediction, paired by the largest sum of mean J.

    Args:
        missing: what an absent prediction is.
        legacy_decay: the tools' 8-bit decay for videos of 256 frames and more.
    """

    missing: Missing = "error"
    legacy_decay: bool = False

    @property
    def name(self) -> str:
        """Name in `results.json`."""
        return "trackeval-jf"

    def score(self, job: VideoJob) -> VideoScores:
        """Return J and F of every true track with its matched prediction; the truth is read twice, once to list its ids."""
        reader = VideoReader(job, missing=self.missing, truth_void=None)
        ids: set[int] = set()
        for name in reader.names:
            ids.update(LabelFrame(reader.raw_truth(name)).ids())
        tracks = sorted(ids - {VOID})
        table = PairTable(tracks)
        proposals: set[int] = set()
        for name in reader.names:
            truth = reader.raw_truth(name)
            prediction = reader.prediction(name, truth)
            found = LabelFrame(prediction).ids()
            proposals.update(found)
            table.add(truth, prediction, proposals=found)
        # Negative ids stand for empty tracks that pad the prediction up to the number of true ones.
        candidates = [*sorted(proposals), *(-k for k in range(1, len(tracks) - len(proposals) + 1))]
        j, f = table.stacked(candidates)
        objects = []
        for p, k in assign(j.mean(axis=2)) if tracks else []:
            details = {"matched_proposal": candidates[p]} if candidates[p] > 0 else {}
            values = {"J": j[p, k].tolist(), "F": f[p, k].tolist()}
            objects.append(ObjectScores(job.video, str(tracks[k]), str(tracks[k]), tuple(reader.names), values, details))
        objects.sort(key=lambda item: int(item.object_id))
        return VideoScores(job.video, tuple(objects), reader.warnings())

    def conclude(self, videos: Sequence[VideoScores]) -> Conclusion:
        """Return means over all tracks; TrackEval's own tables are not written."""
        objects = all_objects(videos)
        rows = [
            {
                metric: summarise(item.values[metric], legacy_decay=self.legacy_decay, recall_above=RECALL_ABOVE)
                for metric in ("J", "F")
            }
            for item in objects
        ]
        scores = dataset_means(rows, ("J", "F"))
        scores = {"J&F-Mean": (scores["J-Mean"] + scores["F-Mean"]) / 2, **scores}
        return Conclusion(scores, [flat_summaries(row) for row in rows], {}, unscored_warnings(objects))
