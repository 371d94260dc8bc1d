"""Clicks, boxes and masks as users give them, checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sam2_rcms.memory import Clicks
from vos_core.errors import MaskError, UsageError

BOX_LABELS = (2, 3)
"""Labels of a box's corners among clicks: top left, bottom right."""


def read_clicks(
    points: npt.ArrayLike | Tensor | None,
    labels: npt.ArrayLike | Tensor | None,
    box: npt.ArrayLike | Tensor | None,
    *,
    extent: Sequence[int],
    clear_old_points: bool,
) -> Clicks:
    """Return clicks and a box as clicks alone, the box's corners first, in the coordinates that were given.

    Args:
        points: `(P, 2)`, x then y.
        labels: `(P,)`, 1 = on the object, 0 = not on it.
        box: x0, y0, x1, y1.
        extent: (width, height) of the frame in those coordinates; clicks must lie inside, and a box not wholly beside it.
        clear_old_points: whether these replace earlier clicks; a box must.

    Raises:
        UsageError: they do not make sense.
    """
    if (points is None) != (labels is None):
        raise UsageError("points and labels were not given together", fix="Give one label (1 or 0) per point")
    places = np.zeros((0, 2), np.float32) if points is None else np.asarray(points, np.float32)
    kinds = np.zeros(0, np.int64) if labels is None else np.asarray(labels)
    if places.ndim != 2 or places.shape[1] != 2 or kinds.shape != (len(places),) or not np.isfinite(places).all():
        raise UsageError(f"points {places.shape} with labels {kinds.shape}", expected="finite (P, 2) and (P,)")
    if not len(places) and box is None:
        raise UsageError("neither a click nor a box was given", expected="at least one of them")
    for x, y in places[((places < 0) | (places > extent)).any(1)][:1].tolist():
        raise _outside(f"click ({x:g}, {y:g})", extent)
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
    if (corners[2:] < 0).any() or (corners[:2] > extent).any():
        raise _outside(f"box {corners.tolist()}", extent)
    return Clicks(np.concatenate((corners.reshape(2, 2), places)), np.concatenate((np.asarray(BOX_LABELS, np.int64), kinds)))


def _outside(what: str, extent: Sequence[int]) -> UsageError:
    return UsageError(
        f"{what} is outside the frame",
        expected=f"x from 0 to {extent[0]} and y from 0 to {extent[1]}",
        fix="Give pixels of the video, or coordinates from 0 to 1 together with normalize_coords=False",
    )


def read_mask(mask: npt.ArrayLike | Tensor, obj_id: int) -> Tensor:
    """Return a mask of one object as bool `(H, W)`.

    Args:
        mask: `(H, W)`, 0 outside and one value inside.
        obj_id: of whom, for errors.

    Raises:
        MaskError: it has another shape, or several values: a label map, or probabilities.
    """
    values = mask.detach().cpu() if isinstance(mask, Tensor) else np.asarray(mask)
    inside = torch.as_tensor(values != 0)
    if inside.ndim != 2:
        raise MaskError(f"a mask of shape {tuple(inside.shape)} for object {obj_id}", expected="(H, W)")
    found = values[inside if isinstance(values, Tensor) else inside.numpy()]
    if len(found) and found.min() != found.max():
        raise MaskError(
            f"a mask for object {obj_id} with several values, {found.min()} to {found.max()}",
            expected="0 outside and one value inside",
            fix="Of a label map give labels == id, of probabilities a comparison such as probs > 0.5",
        )
    return inside
