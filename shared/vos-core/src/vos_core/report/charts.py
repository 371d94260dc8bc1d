"""Charts as plotly figures in JSON, drawn by the script that the page carries with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vos_core.extras import require
from vos_core.report.compare import comparison_rows, labels, percent
from vos_core.report.scores import frame_means
from vos_core.types import RunRecord

# Okabe and Ito's colours can be told apart with every common kind of colour blindness.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#a89a00")
_DASHES = ("solid", "dash", "dot", "dashdot")
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure and the words that stand for it where it cannot be seen."""

    title: str
    summary: str
    figure: dict[str, Any]


def plotly_script() -> str:
    """Return plotly's whole script, for embedding.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    offline = require("plotly.offline", extra="report", purpose="draw charts")
    script: str = offline.get_plotlyjs()
    return script


def quality_charts(records: Sequence[RunRecord]) -> list[Chart]:
    """Return one chart per scored clip: J&F over frames, one line per run; the clips with the lowest score first."""
    names = dict.fromkeys(clip.name for record in records for clip in record.clips)
    found = []
    for name in names:
        curves = [frame_means(record, name) for record in records]
        values = [value for curve in curves for value in curve.values()]
        if not values:
            continue
        lines = [(index, label, curve) for index, (label, curve) in enumerate(zip(labels(records), curves, strict=True)) if curve]
        means = ", ".join(f"{label} {percent(sum(curve.values()) / len(curve))}" for _, label, curve in lines)
        chart = Chart(f"J&F per frame: {name}", f"Mean over frames, in percent: {means}.", figure_json(_quality_figure(lines)))
        found.append((sum(values) / len(values), chart))
    return [chart for _, chart in sorted(found, key=lambda item: item[0])]


def _quality_figure(lines: Sequence[tuple[int, str, dict[str, float]]]) -> Any:
    figure = plain_figure("J&F, %", x_title="frame")
    figure.update_yaxes(range=[-2, 102])
    # A category axis would otherwise take its order from the first run, which may lack frames.
    names = sorted({name for _, _, curve in lines for name in curve})
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=names, nticks=12)
    for index, label, curve in lines:
        style = {"color": _colour(index), "dash": _DASHES[index // len(COLOURS) % len(_DASHES)], "width": 2}
        values = [100 * value for value in curve.values()]
        figure.add_scatter(x=list(curve), y=values, name=label, mode="lines+markers", line=style, marker={"size": 4})
    return figure


def cost_charts(records: Sequence[RunRecord]) -> list[Chart]:
    """Return the charts of speed, memory, time over the longest clip and, with scores, quality against speed."""
    rows = comparison_rows(records)
    timed = [(i, row) for i, row in enumerate(rows) if row.seconds_per_frame]
    if not timed:
        return []
    names, colours = [row.label for _, row in timed], [_colour(i) for i, _ in timed]
    speed = plain_figure("seconds per frame")
    speed.add_bar(x=names, y=[row.seconds_per_frame for _, row in timed], marker_color=colours, showlegend=False)
    memory = plain_figure("MiB")
    memory.add_bar(x=names, y=[(row.peak_memory_bytes or 0) / _MIB for _, row in timed], name="peak", marker_color=colours)
    memory.add_bar(
        x=names, y=[(row.state_bytes or 0) / _MIB for _, row in timed], name="held by the method", marker={"color": "#9aa0a6"}
    )
    charts = [
        Chart(
            "Speed", "; ".join(f"{row.label} {row.seconds_per_frame:.4f} s/frame" for _, row in timed) + ".", figure_json(speed)
        ),
        Chart(
            "Memory",
            "; ".join(f"{row.label} peak {(row.peak_memory_bytes or 0) / _MIB:.0f} MiB" for _, row in timed) + ".",
            figure_json(memory),
        ),
        _time_over_frames(records),
    ]
    scored = [(i, row, row.jf) for i, row in timed if row.jf is not None]
    if scored:
        trade = plain_figure("J&F, %", x_title="seconds per frame (log)")
        trade.update_xaxes(type="log", dtick=1)
        for i, row, quality in scored:
            trade.add_scatter(
                x=[row.seconds_per_frame],
                y=[100 * quality],
                mode="markers",
                name=row.label if row.trained else f"{row.label} (untrained)",
                marker={"color": _colour(i), "size": 12, "symbol": "circle" if row.trained else "circle-open"},
            )
        charts.append(Chart("Quality against speed", "Open circles are untrained.", figure_json(trade)))
    return charts


def _time_over_frames(records: Sequence[RunRecord]) -> Chart:
    lengths = {clip.name: clip.frames for record in records for clip in record.clips if clip.status == "done"}
    longest = max(lengths, key=lambda name: lengths[name])
    figure = plain_figure("seconds", x_title="frame number from the first prompt on")
    for index, (label, record) in enumerate(zip(labels(records), records, strict=True)):
        for clip in record.clips:
            if clip.name == longest and clip.step_seconds:
                figure.add_scatter(
                    y=list(clip.step_seconds), name=label, mode="lines", line={"color": _colour(index), "width": 1.5}
                )
    return Chart(f"Time of each frame: {longest}", "Flat lines are methods of constant cost.", figure_json(figure))


def plain_figure(y_title: str, *, x_title: str = "") -> Any:
    """Return an empty plotly figure in the style of our pages.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    graph_objects = require("plotly.graph_objects", extra="report", purpose="draw charts")
    figure = graph_objects.Figure()
    figure.update_layout(
        template="none",
        height=300,
        margin={"l": 60, "r": 16, "t": 12, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hovermode="x unified",
    )
    figure.update_yaxes(title=y_title, rangemode="tozero", zeroline=False)
    figure.update_xaxes(title=x_title, zeroline=False)
    return figure


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def figure_json(figure: Any) -> dict[str, Any]:
    """Return a plotly figure as plain JSON data."""
    data: dict[str, Any] = json.loads(figure.to_json())
    return data
