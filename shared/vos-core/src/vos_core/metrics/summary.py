"""Statistics over the frames of one object: mean, recall and decay (vos-core specification, section 2.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

DECAY_BINS = 4


class Summary(NamedTuple):
    """Mean, recall (share of frames above 0.5) and decay (first quarter minus last quarter); NaN without frames."""

    mean: float
    recall: float
    decay: float


def summarise(values: npt.ArrayLike, *, legacy_decay: bool = False, recall_above: float = 0.5) -> Summary:
    """Return mean, recall and decay of one object's per-frame values.

    Args:
        values: `(n,)`; NaN is left out of means and counts as 0 for the recall.
        legacy_decay: keep the official tool's 8-bit frame numbers, which are wrong from 256 frames on.
        recall_above: strict bound of the recall (TrackEval: 0.5 + 2^-52).

    Example:
        >>> summarise([1.0, 0.25])
        Summary(mean=0.625, recall=0.5, decay=0.75)
    """
    frames = np.asarray(values, np.float64)
    if frames.size == 0:
        return Summary(np.nan, np.nan, np.nan)
    return Summary(_mean(frames), float(np.mean(frames > recall_above)), _decay(frames, legacy=legacy_decay))


def mean_of(values: Sequence[float]) -> float:
    """Return the mean of values that are not NaN; NaN if there is none."""
    return _mean(np.asarray(values, np.float64))


def _mean(values: npt.NDArray[np.float64]) -> float:
    known = ~np.isnan(values)
    if known.all():
        return float(np.mean(values)) if values.size else np.nan
    return float(np.nanmean(values)) if known.any() else np.nan


def _decay(values: npt.NDArray[np.float64], *, legacy: bool) -> float:
    # 1e-10 makes halves round up, which round-half-to-even would not always do.
    edges = np.round(np.linspace(1, len(values), DECAY_BINS + 1) + 1e-10) - 1
    starts = edges.astype(np.int64)
    stops = starts + 1
    if legacy:
        starts, stops = starts % 256, stops % 256
    return _mean(values[starts[0] : stops[1]]) - _mean(values[starts[-2] : stops[-1]])
