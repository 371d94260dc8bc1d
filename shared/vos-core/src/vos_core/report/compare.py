"""The cross-method table: one row per run, the same numbers on the terminal, in the record and on the page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vos_core.errors import OutputError, UsageError
from vos_core.report.columns import aligned
from vos_core.report.scores import clip_score, known, mean_of_known
from vos_core.run.record import read_run_data, run_from_json
from vos_core.types import RunRecord

RECORD_FORMAT, RECORD_FILE = 1, "record.json"
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Row:
    """What one run scored and cost; None where it is not known (no truth, no clip that ended well).

    Args:
        label: unique name of the run: its method, and what tells it from other runs of that method.
        weights: name of the checkpoint, `untrained` for seeded weights, `none` for methods without weights.
        trained: False marks numbers that say nothing about the method's quality.
        j, f, jf: dataset means, 0-1.
        seconds_per_frame: mean over all frames of all clips, decoding, writing and adapting left out.
        seconds_adapt: mean seconds of test-time training per clip.
        peak_memory_bytes: largest of any clip; what is counted stands in the run's environment.
        state_bytes: largest memory that the method itself held for a clip.
        clips_done, clips_failed: clips that ended well, and that did not.
        frames: frames that the method answered.
    """

    label: str
    method: str
    variant: str | None
    weights: str
    trained: bool
    jf: float | None
    j: float | None
    f: float | None
    seconds_per_frame: float | None
    fps: float | None
    seconds_adapt: float | None
    peak_memory_bytes: int | None
    state_bytes: int | None
    clips_done: int
    clips_failed: int
    frames: int


def comparison_rows(records: Sequence[RunRecord]) -> tuple[Row, ...]:
    """Return one row per record, in their order.

    Raises:
        UsageError: there is no record.
    """
    if not records:
        raise UsageError("no runs to compare", expected="at least one run record")
    return tuple(_row(record, label) for record, label in zip(records, labels(records), strict=True))


def labels(records: Sequence[RunRecord]) -> tuple[str, ...]:
    """Return a unique name for each run: method, then variant, weights and a number as far as needed."""
    names = [record.method for record in records]
    for parts in ([record.variant or "" for record in records], [weights_text(record) for record in records]):
        counts = Counter(names)
        names = [f"{name} {part}".strip() if counts[name] > 1 else name for name, part in zip(names, parts, strict=True)]
    counts, seen = Counter(names), Counter[str]()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(f"{name} #{seen[name]}" if counts[name] > 1 else name)
    return tuple(unique)


def weights_text(record: RunRecord) -> str:
    """Return the name of the weights, or `untrained`."""
    return str(record.weights.get("name") or "none") if is_trained(record) else "untrained"


def is_trained(record: RunRecord) -> bool:
    """Return whether the run's scores are results: False for seeded weights."""
    return bool(record.weights.get("trained", False))


def same_clips(records: Sequence[RunRecord]) -> bool:
    """Return whether all runs finished the same clips, so that their means may be compared."""
    return len({frozenset(clip.name for clip in record.clips if clip.status == "done") for record in records}) <= 1


def text_table(rows: Sequence[Row]) -> str:
    """Return the table as aligned plain text; scores in percent, `-` where there is no value."""
    head = ("method", "weights", "J&F %", "J %", "F %", "s/frame", "fps", "peak MiB", "state MiB", "clips", "failed")
    body = [
        (
            row.label,
            row.weights,
            *(percent(value) for value in (row.jf, row.j, row.f)),
            seconds(row.seconds_per_frame),
            number(row.fps, 1),
            mebibytes(row.peak_memory_bytes),
            mebibytes(row.state_bytes),
            str(row.clips_done),
            str(row.clips_failed),
        )
        for row in rows
    ]
    rules = tuple("-" * max(map(len, column)) for column in zip(head, *body, strict=True))
    lines = aligned([head, rules, *body], names=2)
    if not all(row.trained for row in rows):
        lines.append("untrained: seeded weights; speed and memory count, scores say nothing about the method.")
    return "\n".join(lines)


def comparison_record(records: Sequence[RunRecord], *, title: str) -> dict[str, Any]:
    """Return the JSON form of a comparison: the table and the whole records behind it."""
    return {
        "format": RECORD_FORMAT,
        "title": title,
        "table": [asdict(row) for row in comparison_rows(records)],
        "same_clips": same_clips(records),
        "runs": [{name: value for name, value in asdict(record).items() if name != "output"} for record in records],
    }


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a `record.json` holds: its runs, its heading, and what it says about their making (suite, machine, source)."""

    records: tuple[RunRecord, ...]
    title: str
    about: Mapping[str, Any]


def read_comparison(path: Path) -> Comparison:
    """Return the comparison in a `record.json`; the masks of each run are looked for beside it.

    Raises:
        OutputError: the file is absent, torn or holds something else.
    """
    data = read_run_data(path)
    if not isinstance(data.get("runs"), list) or not all(isinstance(item, Mapping) for item in data["runs"]):
        raise OutputError(f"{path} holds no comparison", expected=f"a {RECORD_FILE} of vos compare")
    records = (run_from_json(item, path) for item in data["runs"])
    about = {name: value for name, value in data.items() if name not in ("format", "title", "table", "same_clips", "runs")}
    placed = tuple(replace(record, output=str(_run_folder(path.parent, record))) for record in records)
    return Comparison(placed, str(data.get("title", "")), about)


def _run_folder(place: Path, record: RunRecord) -> Path:
    named = place / f"{record.method}-{record.variant}"  # where the variant was asked for
    return named if record.variant and named.is_dir() else place / record.method


def percent(value: float | None) -> str:
    """Return a 0-1 score as percent with one decimal, `-` for None."""
    return number(None if value is None else 100 * value, 1)


def number(value: float | None, decimals: int) -> str:
    """Return a number with `decimals` decimals, `-` for None."""
    return "-" if value is None else f"{value:.{decimals}f}"


def seconds(value: float | None) -> str:
    """Return seconds with four decimals, or as many as show two digits of a small value; `-` for None.

    >>> seconds(5.5514), seconds(0.000045)
    ('5.5514', '0.000045')
    """
    if not value:
        return number(value, 4)
    return number(value, max(4, 1 - math.floor(math.log10(value))))


def mebibytes(value: int | None) -> str:
    """Return bytes as MiB, `-` for None."""
    return "-" if value is None else f"{value / _MIB:.0f}" if value >= 10 * _MIB else f"{value / _MIB:.1f}"


def _row(record: RunRecord, label: str) -> Row:
    done = [clip for clip in record.clips if clip.status == "done"]
    steps = [second for clip in done for second in clip.step_seconds]
    seconds = sum(steps) / len(steps) if steps else None
    scores = record.scores or {}
    return Row(
        label=label,
        method=record.method,
        variant=record.variant,
        weights=weights_text(record),
        trained=is_trained(record),
        jf=known(scores.get("J&F")),
        j=known(scores.get("J")),
        f=known(scores.get("F")),
        seconds_per_frame=seconds,
        fps=1.0 / seconds if seconds else None,
        seconds_adapt=mean_of_known([clip.seconds_adapt for clip in done]),
        peak_memory_bytes=max((clip.peak_memory_bytes for clip in done), default=None),
        state_bytes=max((clip.state_bytes for clip in done), default=None),
        clips_done=len(done),
        clips_failed=sum(clip.status == "failed" for clip in record.clips),
        frames=sum(clip.frames for clip in done),
    )


def clip_rows(records: Sequence[RunRecord]) -> list[tuple[str, list[tuple[str, float | None, float | None]]]]:
    """Return clip name -> for each run (status, J&F, seconds per frame), in the order in which clips first occur."""
    names = dict.fromkeys(clip.name for record in records for clip in record.clips)
    table = []
    for name in names:
        cells: list[tuple[str, float | None, float | None]] = []
        for record in records:
            found = next((clip for clip in record.clips if clip.name == name), None)
            if found is None:
                cells.append(("not run", None, None))
            else:
                seconds = found.seconds_per_frame if found.step_seconds else None
                cells.append((found.status, clip_score(record, name), seconds))
        table.append((name, cells))
    return table
