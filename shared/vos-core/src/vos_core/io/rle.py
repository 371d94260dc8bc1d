"""COCO run-length codes in numpy: column-major runs that begin with the zeros, as counts or as the compressed string.

Area, box, union, intersection and IoU work on the runs; no mask is decoded for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from vos_core.errors import MaskError
from vos_core.types import BinaryMask

Counts = npt.NDArray[np.int64]
"""int64 run lengths, zeros first; they sum to H * W."""


class Rle(TypedDict):
    """A mask as COCO and SA-V files hold it: `size` is [H, W], `counts` the compressed string or the list of run lengths."""

    size: list[int]
    counts: str | list[int]


def encode(mask: npt.ArrayLike, *, compress: bool = True) -> Rle:
    """Return the code of a mask `(H, W)`; everything but 0 belongs to the object.

    >>> encode([[1, 0], [0, 0]])
    {'size': [2, 2], 'counts': '013'}
    """
    array = np.asarray(mask)
    if array.ndim != 2:
        raise MaskError(f"a mask of shape {array.shape}", expected="(H, W)")
    flat = np.asarray(array != 0).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(changes, prepend=0, append=flat.size)
    if flat.size and flat[0]:
        counts = np.concatenate(([0], counts))
    return _rle(counts, (array.shape[0], array.shape[1]), compress=compress)


def decode(rle: Mapping[str, Any]) -> BinaryMask:
    """Return the mask, bool `(H, W)`.

    Raises:
        MaskError: it is no run-length code, or its runs do not fill its size.
    """
    height, width = size_of(rle)
    counts = counts_of(rle)
    flat = np.repeat(np.arange(counts.size) % 2 == 1, counts)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def size_of(rle: Mapping[str, Any]) -> tuple[int, int]:
    """Return (height, width)."""
    size = rle.get("size") if isinstance(rle, Mapping) else None
    sides = _integers(size) if isinstance(size, Sequence | np.ndarray) else None
    if sides is None or sides.shape != (2,) or (sides < 0).any():
        raise MaskError(f"a run-length code has the size {size!r}", expected="a mapping with size [height, width] and counts")
    return int(sides[0]), int(sides[1])


def counts_of(rle: Mapping[str, Any]) -> Counts:
    """Return the run lengths of a compressed or uncompressed code.

    Raises:
        MaskError: they are malformed or do not fill the size.
    """
    height, width = size_of(rle)
    raw = rle.get("counts")
    if isinstance(raw, str | bytes):
        counts: Counts | None = from_string(raw)
    else:
        counts = _integers(raw) if isinstance(raw, Sequence | np.ndarray) else None
    if counts is None or counts.ndim != 1:
        found = f"counts of type {type(raw).__name__}" if not isinstance(raw, list) else "counts that are no integers"
        raise MaskError(f"a run-length code has {found}", expected="a string or a list of integers")
    if (counts < 0).any() or counts.sum() != height * width:
        raise MaskError(
            f"a run-length code of size {width}x{height} has runs over {int(counts.sum())} pixels",
            expected=f"{height * width}",
            fix="Its counts or its size are damaged; write it again",
        )
    return counts


def to_string(counts: npt.ArrayLike) -> str:
    """Return the compressed string of run lengths (not negative).

    From the third run after the first on, the difference to the run two before is stored, in groups of five bits, low ones
    first; bit 5 says that more follow, bit 4 of the last group is the sign, and 48 makes it a printable character.
    """
    values = np.array(counts, np.int64)
    values[3:] -= np.asarray(counts, np.int64)[1:-2]
    groups, open_rows, written = [], np.ones(values.shape, bool), []
    while open_rows.any():
        group = values & 0x1F
        values >>= 5
        more = np.where(group & 0x10, values != -1, values != 0)
        groups.append(group | (more << 5))
        written.append(open_rows)
        open_rows = open_rows & more
    if not groups:
        return ""
    characters = np.stack(groups, axis=1)[np.stack(written, axis=1)] + 48
    return characters.astype(np.uint8).tobytes().decode("ascii")


def from_string(text: str | bytes) -> Counts:
    """Return the run lengths of a compressed string.

    Raises:
        MaskError: it has characters that the code does not use, or ends within a number.
    """
    try:
        data = text.encode("ascii") if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        raise MaskError("a run-length string is not ASCII", fix="Its text is damaged; write it again") from error
    symbols = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    if not symbols.size:
        return symbols
    if symbols.min() < 0 or symbols.max() > 0x3F or symbols[-1] & 0x20:
        raise MaskError("a run-length string is cut off or has a character it cannot have", fix="It is damaged; write it again")
    last = np.flatnonzero(symbols & 0x20 == 0)
    first = np.concatenate(([0], last[:-1] + 1))
    lengths = last - first + 1
    if lengths.max() > 12:
        raise MaskError("a run-length string holds a number of more than 60 bits", fix="It is damaged; write it again")
    shift = 5 * (np.arange(symbols.size) - np.repeat(first, lengths))
    values = np.add.reduceat((symbols & 0x1F) << shift, first)
    values -= np.where(symbols[last] & 0x10, np.int64(1) << (5 * lengths), 0)
    # Undo the differences to the number two before; the first number stands alone.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def area(rle: Mapping[str, Any]) -> int:
    """Return the number of the object's pixels."""
    return int(counts_of(rle)[1::2].sum())


def bbox(rle: Mapping[str, Any]) -> list[float]:
    """Return the box [x, y, width, height] in pixels, zeros for an empty mask."""
    height, _ = size_of(rle)
    starts, ends = _runs(counts_of(rle))
    if not starts.size:
        return [0.0, 0.0, 0.0, 0.0]
    left, right = int(starts[0]) // height, (int(ends[-1]) - 1) // height
    if ((starts // height) != ((ends - 1) // height)).any():  # a run over a column's end touches top and bottom
        top, bottom = 0, height - 1
    else:
        top, bottom = int((starts % height).min()), int(((ends - 1) % height).max())
    return [float(left), float(top), float(right - left + 1), float(bottom - top + 1)]


def union(rles: Sequence[Mapping[str, Any]]) -> Rle:
    """Return the pixels that any of the masks has."""
    return _merge(rles, at_least=1)


def intersection(rles: Sequence[Mapping[str, Any]]) -> Rle:
    """Return the pixels that all masks have."""
    return _merge(rles, at_least=len(rles))


def iou_matrix(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.float64]:
    """Return intersection over union, float64 `(len(first), len(second))`; 0 where both masks are empty.

    Raises:
        MaskError: the masks differ in size.
    """
    result = np.zeros((len(first), len(second)))
    if not result.size:
        return result
    _one_size([*first, *second])
    columns = [_runs(counts_of(rle)) for rle in second]
    for row, rle in enumerate(first):
        counts = counts_of(rle)
        ends = np.concatenate(([0], np.cumsum(counts)))
        # Ones before each run's end; linear in between with slope 0 or 1, so interpolation is exact.
        ones = np.concatenate(([0], np.cumsum(np.where(np.arange(counts.size) % 2, counts, 0))))
        for column, (starts, stops) in enumerate(columns):
            common = float((np.interp(stops, ends, ones) - np.interp(starts, ends, ones)).sum())
            either = float(ones[-1]) + float((stops - starts).sum()) - common
            result[row, column] = common / either if either else 0.0
    return result


def _integers(values: Sequence[Any] | npt.NDArray[Any]) -> Counts | None:
    """Return whole numbers (some tools write 848.0) as int64, None if they are none."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of unequal length
        return None
    if array.dtype.kind not in "iuf" or not (np.isfinite(array) & (array == np.rint(array))).all():
        return None
    return array.astype(np.int64)


def _runs(counts: Counts) -> tuple[Counts, Counts]:
    ends = np.cumsum(counts)[1::2]
    lengths = counts[1::2]
    kept = lengths > 0
    return (ends - lengths)[kept], ends[kept]


def _merge(rles: Sequence[Mapping[str, Any]], *, at_least: int) -> Rle:
    size = _one_size(rles)
    runs = [_runs(counts_of(rle)) for rle in rles]
    places = np.concatenate([side for pair in runs for side in pair])
    steps = np.concatenate([np.full(side.size, sign) for pair in runs for side, sign in zip(pair, (1, -1), strict=True)])
    order = np.argsort(places, kind="stable")
    places, depth = places[order], np.cumsum(steps[order])
    settled = np.append(places[1:] != places[:-1], True) if places.size else np.zeros(0, bool)
    places, inside = places[settled], depth[settled] >= at_least
    switches = places[inside != np.concatenate(([False], inside[:-1]))] if places.size else places
    counts = np.diff(switches, prepend=0, append=size[0] * size[1])
    if counts.size > 1 and counts[-1] == 0:
        counts = counts[:-1]
    return _rle(counts, size, compress=True)


def _one_size(rles: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    sizes = {size_of(rle) for rle in rles}
    if len(sizes) != 1:
        raise MaskError(f"run-length codes of the sizes {sorted(sizes)}", expected="one (height, width)")
    return sizes.pop()


def _rle(counts: Counts, size: tuple[int, int], *, compress: bool) -> Rle:
    return {"size": list(size), "counts": to_string(counts) if compress else counts.tolist()}
