"""Every proposal against every object: J and F from one dilation per mask, then the best assignment (specification, 8.5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vos_core.errors import ScoreError
from vos_core.metrics.boundary import DEFAULT_THRESHOLD, BoundaryMatch
from vos_core.metrics.contour import Footprint, boundaries, dilate, disk, radius_of
from vos_core.metrics.packed import LabelFrame, PackedMask, empty, overlap, trim
from vos_core.metrics.source import Labels
from vos_core.types import VOID

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Contour:
    """A mask with its boundary and the pixels near that boundary."""

    mask: PackedMask
    area: int
    boundary: PackedMask
    length: int
    near: PackedMask


def contour_of(mask: PackedMask, footprint: Footprint) -> Contour:
    """Return a mask's boundary, the boundary's length in pixels and its dilation."""
    height, width = mask.height, mask.width
    nothing = empty(height, width)
    if not mask.words.size:
        return Contour(mask, 0, nothing, 0, nothing)
    planes = boundaries((mask,), margin=footprint.reach, reach=footprint.reach)
    length = planes.counts()[0]
    if not length:
        return Contour(mask, mask.area, nothing, 0, nothing)
    count = planes.words.shape[2] - planes.pad
    boundary = PackedMask(planes.words[0, :, :count], planes.top, planes.left, height, width)
    near = PackedMask(dilate(planes, footprint)[0, :, :count], planes.top, planes.left, height, width)
    return Contour(mask, mask.area, trim(boundary), length, near)


def pairwise(proposals: Sequence[PackedMask], objects: Sequence[PackedMask], footprint: Footprint) -> tuple[Scores, Scores]:
    """Return J and F of every proposal with every object of one frame, each `(proposals, objects)`."""
    j, f = np.zeros((len(proposals), len(objects))), np.zeros((len(proposals), len(objects)))
    truths = [contour_of(mask, footprint) for mask in objects]
    for p, mask in enumerate(proposals):
        guess = contour_of(mask, footprint)
        for o, truth in enumerate(truths):
            both = overlap(truth.mask, guess.mask)
            either = truth.area + guess.area - both
            j[p, o] = both / either if either else 1.0
            near = (overlap(truth.boundary, guess.near), overlap(guess.boundary, truth.near))
            f[p, o] = BoundaryMatch(truth.length, guess.length, *near).measure()
    return j, f


class PairTable:
    """Collects J and F of all proposals with fixed objects over the frames of a video.

    Args:
        objects: ids in the truth.
        void: label of truth pixels to leave out of truth and prediction, or None.
    """

    def __init__(self, objects: Iterable[int], *, void: int | None = VOID) -> None:
        self.objects, self.void = tuple(objects), void
        self.highest_proposal = 0
        self._frames: list[dict[int | None, tuple[Scores, Scores]]] = []

    def add(self, truth: Labels, prediction: Labels, *, proposals: Iterable[int]) -> None:
        """Score one frame; proposals that it does not list are empty in it."""
        if self.void is not None:
            ignored = truth == self.void
            if ignored.any():
                truth, prediction = np.where(ignored, 0, truth), np.where(ignored, 0, prediction)
        ids = list(proposals)
        self.highest_proposal = max([self.highest_proposal, *ids])
        there, guess = LabelFrame(truth), LabelFrame(prediction)
        footprint = disk(radius_of(DEFAULT_THRESHOLD, there.height, there.width))
        masks = [*(guess.mask(k) for k in ids), empty(there.height, there.width)]
        j, f = pairwise(masks, [there.mask(k) for k in self.objects], footprint)
        self._frames.append({key: (j[row], f[row]) for row, key in enumerate([*ids, None])})

    def stacked(self, proposals: Iterable[int]) -> tuple[Scores, Scores]:
        """Return J and F as `(proposals, objects, frames)`; a proposal without a mask in a frame is empty there."""
        ids = list(proposals)
        shape = (len(ids), len(self.objects), len(self._frames))
        j, f = np.zeros(shape), np.zeros(shape)
        for t, frame in enumerate(self._frames):
            for row, key in enumerate(ids):
                j[row, :, t], f[row, :, t] = frame.get(key, frame[None])
        return j, f


def assign(gain: Scores) -> list[tuple[int, int]]:
    """Return the one-to-one pairs (row, column) with the largest sum of `gain`, in row order."""
    # Imported here since only matching protocols should pay for SciPy's start.
    from scipy.optimize import linear_sum_assignment

    if not np.isfinite(gain).all():
        raise ScoreError("scores to match hold values that are not numbers", expected="at least one scored frame")
    rows, columns = linear_sum_assignment(-gain)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]
