"""Texts of the files that the official tools write, byte for byte (vos-core specification, "Files that evaluators write")."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def csv_text(header: Sequence[str], rows: Iterable[Sequence[str | float]], *, decimals: int = 3) -> str:
    """Return comma-separated lines with LF ends; numbers have fixed decimals and NaN is an empty cell."""
    lines = [",".join(header)]
    lines += [",".join(cell if isinstance(cell, str) else _number(cell, decimals) for cell in row) for row in rows]
    return "\n".join(lines) + "\n"


def folder_table(rows: Sequence[tuple[str, str, float, float]], means: tuple[float, float, float]) -> str:
    """Return vos-benchmark's `results.csv`.

    Args:
        rows: (video, object, J, F) in percent, in the order of the lines.
        means: J&F, J and F over all objects in percent.
    """
    title = "Global score"
    width = max([len(title), *(len(video) for video, *_ in rows)])
    lines = [f"{'sequence':<{width}},obj,  J&F,    J,    F", f"{title:<{width}},   ,{_percents(*means)}"]
    lines += [f"{video:<{width}},{item.zfill(3)},{_percents((j + f) / 2, j, f)}" for video, item, j, f in rows]
    return "\n".join(lines) + "\n"


def _percents(*values: float) -> str:
    return ",".join(f"{value:5.1f}" for value in values)


def _number(value: float, decimals: int) -> str:
    return "" if math.isnan(value) else f"{value:.{decimals}f}"
