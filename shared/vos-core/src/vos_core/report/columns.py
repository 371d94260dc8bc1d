"""Aligned plain text, for tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], *, names: int) -> list[str]:
    """Return one line per row, cells padded to the width of their column: the first `names` columns to the left, others right.

    >>> aligned([("clip", "frames"), ("a", "12")], names=1)
    ['clip  frames', 'a         12']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(w) if i < names else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines
