"""Arithmetic on label maps: which ids, other ids, another size, several masks in one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from vos_core.errors import MaskError
from vos_core.types import VOID, BinaryMask, LabelMap

ResizeRule = Literal["centre", "corner"]
"""Which input pixel output pixel i takes: floor((i + 0.5) * in / out), Pillow's NEAREST, or floor(i * in / out), OpenCV's."""


def present_ids(labels: LabelMap, *, void: int | None = None) -> list[int]:
    """Return the nonzero values of label maps of any shape in ascending order, `void` left out; no sorting of pixels."""
    highest = int(labels.max(initial=0))
    if highest <= 1:  # the common binary map needs no histogram
        return [1] if highest and void != 1 else []
    found = np.flatnonzero(np.bincount(labels.ravel())).tolist()
    return [value for value in found if value not in (0, void)]


def dense_ids(labels: LabelMap, *, void: int | None = VOID) -> tuple[LabelMap, tuple[int, ...]]:
    """Return labels renumbered 1..N in ascending order of their ids, and the ids; `void` becomes background."""
    ids = present_ids(labels, void=void)
    return remap_ids(labels, {object_id: slot for slot, object_id in enumerate(ids, 1)}), tuple(ids)


def original_ids(labels: LabelMap, ids: tuple[int, ...]) -> LabelMap:
    """Return what `dense_ids` was given (but void), from its two results."""
    return remap_ids(labels, dict(enumerate(ids, 1)))


def remap_ids(labels: LabelMap, table: Mapping[int, int]) -> LabelMap:
    """Return labels with every id replaced by `table`; ids that are not in it become background."""
    highest = max(table.values(), default=0)
    if highest > 65535 or min(table.values(), default=0) < 0:
        raise MaskError(f"ids are to become {min(table.values())} to {highest}", expected="0..65535")
    lookup = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
    for old, new in table.items():
        if 0 < old < lookup.size:
            lookup[old] = new
    return lookup.astype(np.uint8)[labels] if highest < 256 else lookup.astype(np.uint16)[labels]


def merge_objects(masks: Mapping[int, BinaryMask]) -> LabelMap:
    """Return one label map of overlapping objects: painted from the highest id to the lowest, so the lowest wins.

    Raises:
        MaskError: there are no masks, or an id is 0, which means background in a label map.
    """
    if not masks or min(masks) < 1 or max(masks) > 65535:
        raise MaskError(f"objects {sorted(masks)} cannot share a label map", expected="ids of 1..65535", fix="Renumber them")
    shape = next(iter(masks.values())).shape
    labels: LabelMap = np.zeros(shape, np.uint8) if max(masks) < 256 else np.zeros(shape, np.uint16)
    for object_id in sorted(masks, reverse=True):
        labels[masks[object_id]] = object_id
    return labels


def nearest_resize(labels: LabelMap, size: tuple[int, int], *, rule: ResizeRule = "centre") -> LabelMap:
    """Return labels at `size` (height, width); every output pixel is one input pixel, picked by `rule`."""
    rows, columns = (_sources(have, want, rule) for have, want in zip(labels.shape, size, strict=True))
    return labels[rows[:, None], columns]


def _sources(have: int, want: int, rule: ResizeRule) -> npt.NDArray[np.int64]:
    if rule == "corner":
        # OpenCV divides by the ratio of the sizes instead of multiplying; the rounding of some sizes depends on it.
        picked = np.floor(np.arange(want) * (1.0 / (want / have)))
    else:
        # Pillow adds the step up; where a position falls on a pixel border the sum's rounding decides.
        steps = np.full(want, have / want)
        steps[:1] *= 0.5
        picked = np.floor(np.cumsum(steps))
    return np.minimum(picked.astype(np.int64), have - 1)
