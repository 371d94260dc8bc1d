"""The four stages and their published values; chains of stages; the skip schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """Published values of one stage. `batch` is per GPU of two; `milestones` are steps at which the rate drops tenfold."""

    number: int
    batch: int
    iterations: int
    milestones: tuple[int, ...]
    single_object: bool = False
    min_crop: float = 0.36
    last_skip_at: float = 0.9


STAGES: Mapping[int, Stage] = {
    0: Stage(0, 8, 300_000, (150_000,), single_object=True),
    1: Stage(1, 4, 500_000, (400_000,), min_crop=0.25, last_skip_at=0.8),
    2: Stage(2, 4, 300_000, (250_000,)),
    3: Stage(3, 4, 150_000, (125_000,)),
}
CHAINS: Mapping[str, tuple[int, ...]] = {"s0": (0,), "s01": (0, 1), "s03": (0, 3), "s012": (0, 1, 2)}
SKIPS = (5, 10, 15, 20, 25, 5)
YOUTUBE_STEP = 5
"""YouTube-VOS is annotated every fifth frame, so its skip counts in those."""


@dataclass(frozen=True, slots=True)
class SkipSchedule:
    """Epoch -> largest gap between two frames of a triplet; it changes at epoch starts only.

    Args:
        turns: epochs at which the next of `SKIPS` begins.
        divide: frames per annotated frame of the data set.
    """

    turns: tuple[int, ...]
    divide: int = 1

    def __call__(self, epoch: int) -> int:
        """Return the gap in epoch `epoch`, counted from 0."""
        return SKIPS[sum(epoch >= turn for turn in self.turns)] // self.divide


def skip_schedule(stage: Stage, *, iterations: int, batches_per_epoch: int) -> SkipSchedule:
    """Return the schedule of a stage, counted in frames."""
    epochs = math.ceil(iterations / batches_per_epoch)
    return SkipSchedule(tuple(round(epochs * share) for share in (0.1, 0.2, 0.3, 0.4, stage.last_skip_at)))
