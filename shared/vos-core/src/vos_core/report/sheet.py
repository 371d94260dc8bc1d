"""A page of sections for everything that is no run: experiments, explorers, pictures of a model.

>>> section = Section("Loss", text=("It falls.",), tables=(Table(("step", "loss"), (("0", "1.0"), ("100", "0.5"))),))
>>> "It falls." in build_sheet([section], title="A training run")
True
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image

from vos_core.__about__ import __version__
from vos_core.errors import MissingExtraError, UsageError
from vos_core.io.atomic import write_text
from vos_core.report.charts import Chart, figure_json, plotly_script
from vos_core.report.templates import page_frame, templates
from vos_core.types import RgbImage


@dataclass(frozen=True, slots=True)
class Table:
    """Text cells under column names; the first cell of a row is its heading.

    Args:
        columns: names.
        rows: as many texts each as there are columns.
        caption: a sentence above the table.

    Raises:
        UsageError: a row of another length than the columns.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise UsageError(f"a table row has {len(row)} cells: {row}", expected=f"{len(self.columns)}, one per column")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture and the words that describe it.

    Args:
        rgb: uint8 `(H, W, 3)`; embedded as PNG, so every pixel is kept.
        text: caption, also for those who cannot see it.
    """

    rgb: RgbImage
    text: str

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        buffer = io.BytesIO()
        Image.fromarray(self.rgb).save(buffer, format="PNG", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


@dataclass(frozen=True, slots=True)
class Section:
    """One part of a sheet: paragraphs, then tables, charts and pictures."""

    heading: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    pictures: tuple[Picture, ...] = ()


def chart(title: str, figure: Any, *, summary: str) -> Chart:
    """Return a plotly figure (`plotly.graph_objects.Figure`) as a chart; `summary` says in words what it shows."""
    return Chart(title, summary, figure_json(figure))


def write_sheet(
    path: Path, sections: Sequence[Section], *, title: str, lead: str = "", footer: str = "", producer: str = ""
) -> None:
    """Write the sheet of `sections` to `path` atomically; see `build_sheet`."""
    write_text(path, build_sheet(sections, title=title, lead=lead, footer=footer, producer=producer))


def build_sheet(
    sections: Sequence[Section],
    *,
    title: str,
    lead: str = "",
    footer: str = "",
    producer: str = "",
    created: datetime | None = None,
) -> str:
    """Return one self-contained HTML page that opens without a network.

    Without plotly, charts are replaced by a sentence that says how to get them.

    Args:
        sections: in order.
        title: heading of the page.
        lead: sentence below it.
        footer: sentence at the end.
        producer: who wrote it; vos-core and its version if empty.
        created: time to print; now if None.

    Raises:
        UsageError: no section.
    """
    if not sections:
        raise UsageError(f"the sheet '{title}' has no sections", fix="Give at least one")
    script = missing = ""
    if any(section.charts for section in sections):
        try:
            script = plotly_script()
        except MissingExtraError as error:
            missing = str(error)
    return (
        templates()
        .get_template("sheet.html.j2")
        .render(
            **page_frame(title, created),
            sections=sections,
            lead=lead,
            footer=footer,
            producer=producer or f"vos-core {__version__}",
            script=script,
            missing=missing,
        )
    )
