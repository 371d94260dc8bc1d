"""Masks as packed bits: 64 pixels a word, cropped to their box, compared by population counts.

All words lie on one grid: bit k of word j in row i is the pixel (top + i, 64 * (left + j) + k), so masks of one image can be
combined without shifting. Exact by construction; vos-core specification, sections 2.1, 2.2 and 8.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
WORD = np.dtype("<u8")  # little-endian on every machine, so that byte k of a word holds pixels 8k..8k+7
ONE = np.uint64(1)
FEW_IDS = 16
"""Up to this id, packing every mask costs less than listing the ids that occur; the masks are wanted anyway."""

_BITS = np.array([value.bit_count() for value in range(256)], np.uint8)


def _popcounts_by_table(words: Words) -> npt.NDArray[np.uint8]:
    return _BITS[np.ascontiguousarray(words).view(np.uint8)]


popcounts: Callable[[Words], npt.NDArray[np.uint8]] = getattr(np, "bitwise_count", _popcounts_by_table)
"""Numbers of set bits, per word, or per byte with NumPy 1.26, where the last axis is eight times as long."""


@dataclass(frozen=True, slots=True)
class PackedMask:
    """A binary mask of an image of `height` x `width` pixels, stored only inside its box.

    Args:
        words: uint64 `(rows, words)`; empty for an empty mask.
        top: image row of the first stored row.
        left: index of the first stored word in an image row.
        height: image height in pixels.
        width: image width in pixels.
    """

    words: Words
    top: int
    left: int
    height: int
    width: int

    @property
    def area(self) -> int:
        """Number of set pixels."""
        return int(popcounts(self.words).sum(dtype=np.int64))

    @property
    def bottom(self) -> int:
        """Row after the last stored one."""
        return self.top + self.words.shape[0]

    @property
    def right(self) -> int:
        """Word after the last stored one."""
        return self.left + self.words.shape[1]

    def box(self) -> tuple[int, int, int, int] | None:
        """Return the tight pixel box (first row, first column, last row, last column), or None for an empty mask."""
        rows = np.flatnonzero(np.bitwise_or.reduce(self.words, axis=1))
        if rows.size == 0:
            return None
        columns = np.unpackbits(np.bitwise_or.reduce(self.words, axis=0).view(np.uint8), bitorder="little")
        inside = np.flatnonzero(columns) + 64 * self.left
        return self.top + int(rows[0]), int(inside[0]), self.top + int(rows[-1]), int(inside[-1])


class LabelFrame:
    """One label map, packed object by object on demand inside the box of everything that is not background.

    Args:
        labels: uint8, uint16 or bool `(H, W)`; 0 is background.
        binary: merge all values above 0 to object 1.
    """

    def __init__(self, labels: npt.NDArray[Any], *, binary: bool = False) -> None:
        self.labels = np.ascontiguousarray(labels.view(np.uint8) if labels.dtype == np.bool_ else labels)
        self.height, self.width = labels.shape
        self._top, self._bottom = _filled_rows(self.labels)
        self.highest = self._left = self._right = 0
        self._masks: dict[int, PackedMask] = {}
        if self._top == self._bottom:
            return
        values = self.labels[self._top : self._bottom].max(axis=0)
        self.highest = 1 if binary else int(values.max())
        columns = np.flatnonzero(values)
        self._left, self._right = int(columns[0]) // 64, int(columns[-1]) // 64 + 1
        self._crop = self.labels[self._top : self._bottom, 64 * self._left : min(64 * self._right, self.width)]

    def ids(self) -> tuple[int, ...]:
        """Return the nonzero values in rising order."""
        if self.highest <= FEW_IDS:
            return tuple(k for k in range(1, self.highest + 1) if self.mask(k).words.size)
        seen = np.zeros(self.highest + 1, bool)
        seen[self._crop] = True
        return tuple(int(value) for value in np.flatnonzero(seen) if value)

    def foreground(self) -> PackedMask:
        """Return the mask of everything that is not background."""
        return self._packed(None)

    def mask(self, object_id: int) -> PackedMask:
        """Return the mask of one value, empty if it is absent."""
        if object_id > self.highest:
            return empty(self.height, self.width)
        if object_id not in self._masks:
            self._masks[object_id] = self._packed(None) if self.highest == 1 else trim(self._packed(object_id))
        return self._masks[object_id]

    def _packed(self, object_id: int | None) -> PackedMask:
        if self.highest == 0:
            return empty(self.height, self.width)
        crop = self._crop if object_id is None else self._crop == object_id
        if crop.dtype.itemsize > 1:
            crop = crop != 0  # packbits takes bytes only
        bits = np.packbits(crop, axis=1, bitorder="little")
        padded = np.zeros((crop.shape[0], 8 * (self._right - self._left)), np.uint8)
        padded[:, : bits.shape[1]] = bits
        return PackedMask(padded.view(WORD), self._top, self._left, self.height, self.width)


def _filled_rows(labels: npt.NDArray[Any]) -> tuple[int, int]:
    """Return a range of rows outside which a contiguous array is 0, at most one row too wide at either end."""
    flat = labels.reshape(-1).view(np.uint8)
    whole = flat.size // 8 * 8
    filled = flat[:whole].view(np.uint64) != 0
    row_bytes = labels.shape[1] * labels.dtype.itemsize
    rest = bool(flat[whole:].any())
    first = int(filled.argmax()) if filled.size else 0
    if not filled.size or not filled[first]:
        return (whole // row_bytes, labels.shape[0]) if rest else (0, 0)
    last = flat.size - 1 if rest else 8 * (filled.size - int(filled[::-1].argmax())) - 1
    return 8 * first // row_bytes, last // row_bytes + 1


def pack(mask: npt.NDArray[Any]) -> PackedMask:
    """Return the packed form of a `(H, W)` mask; every nonzero value is set."""
    return LabelFrame(mask).foreground()


def empty(height: int, width: int) -> PackedMask:
    """Return a mask without pixels."""
    return PackedMask(np.zeros((0, 0), WORD), 0, 0, height, width)


def trim(mask: PackedMask) -> PackedMask:
    """Return the same mask stored in the fewest rows and words."""
    rows = np.flatnonzero(np.bitwise_or.reduce(mask.words, axis=1))
    if rows.size == 0:
        return empty(mask.height, mask.width)
    first, last = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(np.bitwise_or.reduce(mask.words[first:last], axis=0))
    start, stop = int(columns[0]), int(columns[-1]) + 1
    return PackedMask(mask.words[first:last, start:stop], mask.top + first, mask.left + start, mask.height, mask.width)


def union(masks: Sequence[PackedMask]) -> PackedMask:
    """Return the pixels that any of the masks has; all masks are of one image and there is at least one."""
    stored = [mask for mask in masks if mask.words.size]
    if not stored:
        return masks[0]
    top, left = min(mask.top for mask in stored), min(mask.left for mask in stored)
    words = np.zeros((max(mask.bottom for mask in stored) - top, max(mask.right for mask in stored) - left), WORD)
    for mask in stored:
        words[mask.top - top : mask.bottom - top, mask.left - left : mask.right - left] |= mask.words
    return PackedMask(words, top, left, masks[0].height, masks[0].width)


def overlap(a: PackedMask, b: PackedMask) -> int:
    """Return the number of pixels that both masks have."""
    top, bottom = max(a.top, b.top), min(a.bottom, b.bottom)
    left, right = max(a.left, b.left), min(a.right, b.right)
    if top >= bottom or left >= right:
        return 0
    both = (
        a.words[top - a.top : bottom - a.top, left - a.left : right - a.left]
        & b.words[top - b.top : bottom - b.top, left - b.left : right - b.left]
    )
    return int(popcounts(both).sum(dtype=np.int64))
