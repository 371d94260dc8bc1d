"""MOSEv2's adaptive boundary measure and its split into disappearance and reappearance (specification, section 2.6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from vos_core.metrics.boundary import DEFAULT_THRESHOLD, match_boundaries
from vos_core.metrics.contour import diagonal, disk
from vos_core.metrics.packed import PackedMask
from vos_core.metrics.region import packed_pair

SizeMode = Literal["area", "diagonal"]
Segment = tuple[int, int]
"""Half-open range of scored frames."""


def adaptive_measure(
    truth: PackedMask, prediction: PackedMask, *, threshold: float = 0.1, mode: SizeMode = "area"
) -> tuple[float, float]:
    """Return MOSEv2's plain and adaptive F, 0-1.

    The adaptive tolerance is ceil(threshold * object size), at most 0.008 of the image diagonal, which is not rounded; at that
    bound both values use the same, not centred footprint, as the published tables do.

    Args:
        truth: mask of the object.
        prediction: mask of the same image.
        threshold: share of the object's size.
        mode: size of an object: the root of its area, or the diagonal of its box.
    """
    bound = DEFAULT_THRESHOLD * diagonal(truth.height, truth.width)
    size = _object_size(truth, mode)
    wanted = math.ceil(threshold * size) if size else math.ceil(bound)
    if wanted < bound:
        plain, adaptive = match_boundaries(truth, prediction, (disk(math.ceil(bound)), disk(wanted)))
        return plain.measure(), adaptive.measure()
    both = match_boundaries(truth, prediction, (disk(bound),))[0].measure()
    return both, both


def adaptive_boundary_measure(
    truth: npt.ArrayLike, prediction: npt.ArrayLike, *, threshold: float = 0.1, mode: SizeMode = "area"
) -> tuple[float, float]:
    """Return MOSEv2's plain and adaptive F of two `(H, W)` masks, 0-1; see `adaptive_measure`."""
    return adaptive_measure(*packed_pair(truth, prediction, None), threshold=threshold, mode=mode)


def _object_size(truth: PackedMask, mode: SizeMode) -> float:
    if mode == "area":
        return math.sqrt(truth.area)
    box = truth.box()
    if box is None:
        return 0.0
    return diagonal(box[2] - box[0] + 1, box[3] - box[1] + 1)


def absences(present: Sequence[bool]) -> tuple[list[Segment], list[Segment]]:
    """Return the disappearance and the reappearance segments of an object.

    Args:
        present: per scored frame, whether the truth shows the object.

    Returns:
        Runs of absence that begin after the first scored frame, and runs of presence that follow an absence.
    """
    edges = [0, *(t for t in range(1, len(present)) if present[t] != present[t - 1]), len(present)]
    runs = [(start, stop) for start, stop in pairwise(edges) if stop > start and start > 0]
    return [run for run in runs if not present[run[0]]], [run for run in runs if present[run[0]]]


def segment_mean(values: Sequence[float], segments: Sequence[Segment]) -> float | None:
    """Return the mean over segments of the mean of `values` in each, or None without segments."""
    if not segments:
        return None
    return float(np.mean([np.mean(values[start:stop]) for start, stop in segments]))
