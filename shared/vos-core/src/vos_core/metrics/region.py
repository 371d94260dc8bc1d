"""Region similarity J: intersection over union of two masks (vos-core specification, section 2.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vos_core.errors import ScoreError
from vos_core.metrics.packed import PackedMask, overlap, pack


def jaccard(truth: PackedMask, prediction: PackedMask) -> float:
    """Return |truth and prediction| / |truth or prediction|, 1.0 if both are empty."""
    both = overlap(truth, prediction)
    either = truth.area + prediction.area - both
    return both / either if either else 1.0


def smoothed_jaccard(truth: PackedMask, prediction: PackedMask) -> float:
    """Return MOSEv2's J: (intersection + 1) / (union + 1), 1.0 if both are empty."""
    both = overlap(truth, prediction)
    either = truth.area + prediction.area - both
    return min(max((both + 1) / (either + 1), 0.0), 1.0) if either else 1.0


def region_similarity(
    truth: npt.ArrayLike, prediction: npt.ArrayLike, void: npt.ArrayLike | None = None, *, smoothed: bool = False
) -> float:
    """Return J of two masks, 0-1.

    Args:
        truth: `(H, W)`; every nonzero value is the object.
        prediction: same shape.
        void: same shape; pixels to leave out.
        smoothed: MOSEv2's form with one added to both counts.

    Raises:
        ScoreError: the arrays are not two-dimensional or differ in shape.

    Example:
        >>> region_similarity([[1, 1], [0, 0]], [[1, 0], [0, 0]])
        0.5
    """
    a, b = packed_pair(truth, prediction, void)
    return smoothed_jaccard(a, b) if smoothed else jaccard(a, b)


def packed_pair(truth: npt.ArrayLike, prediction: npt.ArrayLike, void: npt.ArrayLike | None) -> tuple[PackedMask, PackedMask]:
    """Return both masks packed, without the void pixels; raises `ScoreError` for shapes that do not fit."""
    arrays: list[npt.NDArray[Any]] = [np.asarray(truth), np.asarray(prediction)]
    if void is not None:
        arrays.append(np.asarray(void))
    shapes = [array.shape for array in arrays]
    if len(shapes[0]) != 2 or any(shape != shapes[0] for shape in shapes):
        raise ScoreError(f"masks have the shapes {', '.join(map(str, shapes))}", expected="two-dimensional masks of one shape")
    masks = [array != 0 for array in arrays]
    if void is not None:
        masks = [mask & ~masks[2] for mask in masks[:2]]
    return pack(masks[0]), pack(masks[1])
