"""Boundary maps and their dilation on packed bits, for one mask or several that share a box.

vos-core specification, sections 2.2, 2.3, 2.6 (mosev2 footprints), 8.1 and 8.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from vos_core.metrics.packed import ONE, WORD, PackedMask, Words, popcounts


@dataclass(frozen=True, slots=True)
class Footprint:
    """A dilation footprint whose rows are nested runs: out(y, x) = max over its cells of in(y + dy, x + dx).

    Args:
        reach: largest |dy| or |dx| of a cell, in pixels.
        innermost: the dx that every run holds, 0 or -1.
        runs: (first dx, last dx, the row offsets dy that have this run), shortest run first.
    """

    reach: int
    innermost: int
    runs: tuple[tuple[int, int, tuple[int, ...]], ...]


def footprint_cells(radius: float) -> npt.NDArray[np.bool_]:
    """Return the cells of a disk as a square array: the grid -radius, -radius + 1, ... with x² + y² <= radius².

    For a radius that is not whole the grid is not centred; MOSEv2's tool uses it so (specification, section 2.6).
    """
    axis = np.arange(-radius, radius + 1)
    cells: npt.NDArray[np.bool_] = axis[:, None] ** 2 + axis[None, :] ** 2 <= radius**2
    return cells


@lru_cache(maxsize=256)
def disk(radius: float) -> Footprint:
    """Return the footprint of `footprint_cells(radius)`; one without any cell acts as its array entry (0, 0)."""
    cells = footprint_cells(radius)
    centre = len(cells) // 2
    if not cells.any():
        return Footprint(reach=centre, innermost=-centre, runs=((-centre, -centre, (-centre,)),))
    rows: dict[tuple[int, int], list[int]] = {}
    for index, row in enumerate(cells):
        inside = np.flatnonzero(row) - centre
        if inside.size:
            rows.setdefault((int(inside[0]), int(inside[-1])), []).append(index - centre)
    runs = sorted(rows.items(), key=lambda item: item[0][1] - item[0][0])
    innermost = int(np.abs(np.arange(-radius, radius + 1)).argmin()) - centre
    return Footprint(reach=centre, innermost=innermost, runs=tuple((*run, tuple(dy)) for run, dy in runs))


@dataclass(frozen=True, slots=True)
class Planes:
    """Bit planes of one image in one box, with free columns after every row so that shifts cannot reach the next one.

    Args:
        words: contiguous uint64 `(planes, rows, words + pad)`; the pad holds no pixels.
        top: image row of the first stored row.
        left: word index of the first stored word.
        pad: words after every row.
    """

    words: Words
    top: int
    left: int
    pad: int

    def counts(self) -> list[int]:
        """Return the number of set pixels of each plane."""
        return [int(count) for count in popcounts(self.words).sum(axis=(1, 2), dtype=np.int64)]


def boundaries(masks: Sequence[PackedMask], *, margin: int = 0, reach: int = 0) -> Planes:
    """Return the boundary maps of masks of one image as planes over their joint box.

    A pixel is on the boundary if its 2 x 2 window (itself, right, below, both) is not constant; beyond the last row and column
    the last one repeats.

    Args:
        masks: at least one with pixels.
        margin: rows and columns to leave around the box, cut at the image (room for a dilation that is wanted outside it).
        reach: largest horizontal reach of a dilation to come, in pixels.
    """
    height, width = masks[0].height, masks[0].width
    stored = [mask for mask in masks if mask.words.size]
    left, right = min(mask.left for mask in stored), max(mask.right for mask in stored)
    # A boundary lies up-left of its edge, so a mask that begins with a word's first pixel needs the word before.
    if left and (margin or any(mask.left == left and (mask.words[:, 0] & ONE).any() for mask in stored)):
        left = max(left - 1 - margin // 64, 0)
    last_word = (width - 1) // 64
    if margin:
        right = min(right + 1 + (margin - 1) // 64, last_word + 1)
    top = max(min(mask.top for mask in stored) - 1 - margin, 0)
    bottom = min(max(mask.bottom for mask in stored) + margin, height)
    pad = 1 + max(reach, 1) // 64
    count = right - left
    # One further row holds the repeated last row of the image, or nothing.
    source = np.zeros((len(masks), bottom - top + 1, count + pad), WORD)
    for plane, mask in zip(source, masks, strict=True):
        if mask.words.size:
            plane[mask.top - top : mask.bottom - top, mask.left - left : mask.right - left] = mask.words
    if bottom == height:
        source[:, -1] = source[:, -2]
    beyond = width - 64 * left
    if right > last_word:
        edge = (source[..., (beyond - 1) // 64] >> np.uint64((beyond - 1) % 64)) & ONE
        source[..., beyond // 64] |= edge << np.uint64(beyond % 64)
    flat = source.reshape(-1)
    neighbour = flat >> ONE
    neighbour[:-1] |= flat[1:] << np.uint64(63)
    some, every = (flat | neighbour).reshape(source.shape), (flat & neighbour).reshape(source.shape)
    result = np.bitwise_or(some[:, :-1], some[:, 1:])
    result ^= every[:, :-1] & every[:, 1:]
    result[..., count:] = 0
    if right > last_word and beyond % 64:
        result[..., beyond // 64] &= np.uint64((1 << beyond % 64) - 1)
    return Planes(result, top, left, pad)


def dilate(planes: Planes, footprint: Footprint) -> Words:
    """Return every plane dilated by `footprint`, same shape as `planes.words`; bits in the pad mean nothing.

    Row widths of a disk grow towards its centre, so one pass of widening shifts serves all its rows.
    """
    shape = planes.words.shape
    rows = shape[1]
    current, spare, carry = planes.words, np.empty(shape, WORD), np.empty(planes.words.size, WORD)
    out = np.zeros(shape, WORD)
    first = last = footprint.innermost
    if first:
        flat, moved = current.reshape(-1), spare.reshape(-1)
        np.left_shift(flat, np.uint64(-first), out=moved)
        moved[1:] |= flat[:-1] >> np.uint64(64 + first)
        current, spare = spare, np.empty(shape, WORD)
    for wanted_first, wanted_last, offsets in footprint.runs:
        while (first, last) != (wanted_first, wanted_last):
            reach = min(last - first + 1, 63)  # further would leave gaps
            right, left = min(first - wanted_first, reach), min(wanted_last - last, reach)
            _widen(current, spare, carry, right, left)
            current, spare = spare, (np.empty(shape, WORD) if current is planes.words else current)
            first, last = first - right, last + left
        for dy in offsets:
            if abs(dy) >= rows:
                continue
            if dy >= 0:
                out[:, : rows - dy] |= current[:, dy:]
            else:
                out[:, -dy:] |= current[:, : rows + dy]
    return out


def _widen(source: Words, target: Words, carry: Words, right: int, left: int) -> None:
    """Store the union of `source` and its copies moved 0..63 columns right and left in the image; `carry` is scratch."""
    flat, wide = source.reshape(-1), target.reshape(-1)
    wide[:] = flat
    if right:
        np.left_shift(flat, np.uint64(right), out=carry)
        wide |= carry
        np.right_shift(flat, np.uint64(64 - right), out=carry)
        wide[1:] |= carry[:-1]
    if left:
        np.right_shift(flat, np.uint64(left), out=carry)
        wide |= carry
        np.left_shift(flat, np.uint64(64 - left), out=carry)
        wide[:-1] |= carry[1:]


def radius_of(threshold: float, height: int, width: int) -> int | float:
    """Return the tolerance radius in pixels: the threshold itself from 1 on, else ceil(threshold * diagonal)."""
    if threshold >= 1:
        return threshold
    return math.ceil(threshold * diagonal(height, width))


def diagonal(height: int, width: int) -> float:
    """Return the image diagonal in pixels."""
    return math.sqrt(height * height + width * width)
