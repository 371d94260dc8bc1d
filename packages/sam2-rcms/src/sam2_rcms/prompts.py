"""Clicks and boxes as users give them, checked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sam2_rcms.memory import Clicks
from vos_core.errors import UsageError

BOX_LABELS = (2, 3)
"""Labels of a box's corners among clicks: top left, bottom right."""


def read_clicks(
    points: npt.ArrayLike | Tensor | None,
    labels: npt.ArrayLike | Tensor | None,
    box: npt.ArrayLike | Tensor | None,
    *,
    clear_old_points: bool,
) -> Clicks:
    """Return clicks and a box as clicks alone, the box's corners first, in the coordinates that were given.

    Args:
        points: `(P, 2)`, x then y.
        labels: `(P,)`, 1 = on the object, 0 = not on it.
        box: x0, y0, x1, y1.
        clear_old_points: whether these replace earlier clicks; a box must.

    Raises:
        UsageError: they do not make sense.
    """
    if (points is None) != (labels is None):
        raise UsageError("points and labels were not given together", fix="Give one label (1 or 0) per point")
    if points is None and box is None:
        raise UsageError("neither points nor a box was given")
    places = np.zeros((0, 2), np.float32) if points is None else np.asarray(points, np.float32)
    kinds = np.zeros(0, np.int64) if labels is None else np.asarray(labels)
    if places.ndim != 2 or places.shape[1] != 2 or kinds.shape != (len(places),) or not np.isfinite(places).all():
        raise UsageError(f"points {places.shape} with labels {kinds.shape}", expected="finite (P, 2) and (P,)")
    if not np.isin(kinds, (0, 1, *BOX_LABELS)).all():
        raise UsageError(f"click labels {sorted(set(kinds.tolist()))}", expected="1 = on the object, 0 = not on it")
    kinds = kinds.astype(np.int64)
    if box is None:
        return Clicks(places, kinds)
    if not clear_old_points:
        raise UsageError("a box cannot be added to earlier clicks: it must come before them", fix="Use clear_old_points=True")
    corners = np.asarray(box, np.float32).reshape(-1)
    if corners.shape != (4,) or not np.isfinite(corners).all() or (corners[2:] < corners[:2]).any():
        raise UsageError(f"box {np.asarray(box).tolist()}", expected="x0, y0, x1, y1 with x0 <= x1 and y0 <= y1")
    return Clicks(np.concatenate((corners.reshape(2, 2), places)), np.concatenate((np.asarray(BOX_LABELS, np.int64), kinds)))
