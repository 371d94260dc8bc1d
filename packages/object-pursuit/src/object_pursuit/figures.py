"""Plotly figures for pages, or nothing where plotly is not installed: tables and pictures say the same."""

from __future__ import annotations

from typing import Any

from vos_core.errors import MissingExtraError
from vos_core.report.charts import Chart, plain_figure
from vos_core.report.sheet import chart


def charts_of(
    title: str, traces: list[tuple[str, dict[str, Any]]], *, summary: str, x: str = "", y: str = ""
) -> tuple[Chart, ...]:
    """Return one chart with the given traces, or none without plotly.

    Args:
        title: above the chart.
        traces: (kind, values), such as ("Scatter", {"x": ..., "y": ..., "name": ...}).
        summary: what it shows, in words.
        x: title of the horizontal axis.
        y: title of the vertical axis.
    """
    try:
        figure = plain_figure(y, x_title=x)
    except MissingExtraError:
        return ()
    for kind, values in traces:
        figure.add_trace({"type": kind.lower(), **values})
    return (chart(title, figure, summary=summary),)
