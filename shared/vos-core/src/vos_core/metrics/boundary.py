"""Boundary measure F: how many boundary pixels of either mask lie near one of the other (specification, sections 2.2, 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vos_core.metrics.contour import Footprint, boundaries, dilate, disk, radius_of
from vos_core.metrics.packed import PackedMask, popcounts
from vos_core.metrics.region import jaccard, packed_pair

DEFAULT_THRESHOLD = 0.008
"""Share of the image diagonal within which a boundary pixel counts as found."""


@dataclass(frozen=True, slots=True)
class BoundaryMatch:
    """Boundary pixels of truth and prediction, and how many of each lie near one of the other."""

    truth: int
    prediction: int
    truth_matched: int
    prediction_matched: int

    def measure(self) -> float:
        """Return F, 0-1, with the reference's order of operations and its rules for masks without a boundary."""
        if not self.truth or not self.prediction:
            return float(self.truth == self.prediction)
        precision = self.prediction_matched / self.prediction
        recall = self.truth_matched / self.truth
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def match_boundaries(truth: PackedMask, prediction: PackedMask, footprints: Sequence[Footprint]) -> list[BoundaryMatch]:
    """Return the boundary match of two masks of one image for each footprint."""
    if not truth.words.size and not prediction.words.size:
        return [BoundaryMatch(0, 0, 0, 0)] * len(footprints)
    planes = boundaries((truth, prediction), reach=max(footprint.reach for footprint in footprints))
    n_truth, n_prediction = planes.counts()
    if not n_truth or not n_prediction:
        return [BoundaryMatch(n_truth, n_prediction, 0, 0)] * len(footprints)
    matches = []
    for footprint in footprints:
        near = dilate(planes, footprint)
        near &= planes.words[::-1]
        prediction_matched, truth_matched = popcounts(near).sum(axis=(1, 2), dtype=np.int64)
        matches.append(BoundaryMatch(n_truth, n_prediction, int(truth_matched), int(prediction_matched)))
    return matches


def packed_boundary_measure(truth: PackedMask, prediction: PackedMask, threshold: float = DEFAULT_THRESHOLD) -> float:
    """Return F of two packed masks of one image, 0-1."""
    footprint = disk(radius_of(threshold, truth.height, truth.width))
    return match_boundaries(truth, prediction, (footprint,))[0].measure()


def measure_pair(truth: PackedMask, prediction: PackedMask) -> tuple[float, float]:
    """Return J and F of two packed masks of one image, both 1.0 if both masks are empty."""
    if not truth.words.size and not prediction.words.size:
        return 1.0, 1.0
    return jaccard(truth, prediction), packed_boundary_measure(truth, prediction)


def boundary_measure(
    truth: npt.ArrayLike, prediction: npt.ArrayLike, threshold: float = DEFAULT_THRESHOLD, void: npt.ArrayLike | None = None
) -> float:
    """Return F of two masks, 0-1.

    Args:
        truth: `(H, W)`; every nonzero value is the object.
        prediction: same shape.
        threshold: tolerance as a share of the image diagonal, or a radius in pixels if it is 1 or more.
        void: same shape; set to background in both masks before their boundaries are taken.

    Raises:
        ScoreError: the arrays are not two-dimensional or differ in shape.

    Example:
        >>> boundary_measure([[0, 0, 0], [0, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 1, 0], [0, 0, 0]])
        1.0
    """
    return packed_boundary_measure(*packed_pair(truth, prediction, void), threshold)


def boundary_pixels(mask: npt.ArrayLike) -> int:
    """Return the number of boundary pixels of a `(H, W)` mask."""
    packed = packed_pair(mask, mask, None)[0]
    return boundaries((packed,)).counts()[0] if packed.words.size else 0
