"""The report: run records in, one HTML file out that opens without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from vos_core.errors import MissingExtraError
from vos_core.io.atomic import write_text
from vos_core.report.charts import Chart, cost_charts, plotly_script, quality_charts
from vos_core.report.compare import clip_rows, comparison_rows, labels, mebibytes, number, percent, same_clips, seconds
from vos_core.report.failures import Failure, failures
from vos_core.report.samples import sample_grids
from vos_core.report.templates import page_frame, templates
from vos_core.types import Clip, RunRecord

TITLE = "Video object segmentation runs"
_MAX_QUALITY_CHARTS = 24


@dataclass(frozen=True, slots=True)
class _Charts:
    quality: Sequence[Chart] = ()
    cost: Sequence[Chart] = ()
    hidden: int = 0
    script: str = ""
    missing: str = ""


def write_page(
    records: Sequence[RunRecord],
    path: Path,
    *,
    title: str = TITLE,
    clips: Sequence[Clip] = (),
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write the page of `records` to `path` atomically; see `build_page`."""
    write_text(path, build_page(records, title=title, clips=clips, about=about))


def build_page(
    records: Sequence[RunRecord],
    *,
    title: str = TITLE,
    clips: Sequence[Clip] = (),
    about: Mapping[str, Any] | None = None,
    created: datetime | None = None,
) -> str:
    """Return one self-contained HTML page: tables, charts, pictures, failures and environment of the runs.

    Args:
        records: runs to show, one column or row each.
        title: heading of the page.
        clips: where frames and truth lie; without them the page has no pictures and no search for swapped objects.
        about: what else to say of all runs, such as the suite and the commit; shown with the environment.
        created: time to print; now if None.

    Raises:
        UsageError: no record.
    """
    environment = templates()
    environment.filters.update(percent=percent, number=number, seconds=seconds, mebibytes=mebibytes)
    rows, charts = comparison_rows(records), _charts(records)
    return environment.get_template("page.html.j2").render(
        **page_frame(title, created),
        rows=rows,
        best=_best(rows),
        labels=labels(records),
        clip_rows=clip_rows(records),
        same_clips=same_clips(records),
        errors=_errors(records),
        warnings=_warnings(records),
        charts=charts,
        script=charts.script,
        grids=sample_grids(records, clips) if clips else [],
        failures=_failures(records, clips),
        scored=any(row.jf is not None for row in rows),
        environment=[*_environment(records), *((key, [text]) for key, text in _flat("", about or {}).items())],
    )


def _charts(records: Sequence[RunRecord]) -> _Charts:
    try:
        script = plotly_script()
    except MissingExtraError as error:
        return _Charts(missing=str(error))
    quality = quality_charts(records)
    return _Charts(quality[:_MAX_QUALITY_CHARTS], cost_charts(records), max(0, len(quality) - _MAX_QUALITY_CHARTS), script)


def _best(rows: Sequence[Any]) -> dict[str, float]:
    """Return column -> best value among trained runs, where there is a choice."""
    best = {}
    for name, choose in (("jf", max), ("j", max), ("f", max), ("seconds_per_frame", min), ("peak_memory_bytes", min)):
        values = [getattr(row, name) for row in rows if row.trained and getattr(row, name) is not None]
        if len(values) > 1:
            best[name] = choose(values)
    return best


def _failures(records: Sequence[RunRecord], clips: Sequence[Clip]) -> list[tuple[str, list[Failure]]]:
    found = [(label, failures(record, clips)) for label, record in zip(labels(records), records, strict=True)]
    return [(label, items) for label, items in found if items]


def _errors(records: Sequence[RunRecord]) -> list[tuple[str, str, str]]:
    return [
        (label, clip.name, clip.error or "stopped without a message")
        for label, record in zip(labels(records), records, strict=True)
        for clip in record.clips
        if clip.status == "failed"
    ]


def _warnings(records: Sequence[RunRecord]) -> list[tuple[str, str, str]]:
    """Return (run, clip, what the reader should know): warnings of the run, clips left out of it, and clips without scores."""
    found = []
    for label, record in zip(labels(records), records, strict=True):
        unscored = (record.scores or {}).get("unscored", {})
        for clip in record.clips:
            found += [(label, clip.name, text) for text in clip.warnings]
            if clip.status == "skipped" and clip.error:
                found.append((label, clip.name, f"left out: {clip.error}"))
            elif clip.status == "done" and clip.name in unscored:
                found.append((label, clip.name, f"not scored: {unscored[clip.name]}"))
    return found


def _environment(records: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return setting -> its text in each run; a single text where all runs agree."""
    tables = [
        {
            "started": record.started or "-",
            "variant": record.variant or "-",
            **_flat("weights", record.weights),
            **_flat("options", record.options),
            **_flat("", record.environment),
            **_flat("scores", {k: v for k, v in (record.scores or {}).items() if isinstance(v, str)}),
        }
        for record in records
    ]
    lines = []
    for key in dict.fromkeys(key for table in tables for key in table):
        texts = [table.get(key, "-") for table in tables]
        lines.append((key, texts[:1] if len(set(texts)) == 1 else texts))
    return lines


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix} {key}".strip()
        if isinstance(value, Mapping):
            flat.update(_flat(name if key != "versions" else "", value))
        else:
            flat[name] = value if isinstance(value, str) else json.dumps(value)
    return flat
