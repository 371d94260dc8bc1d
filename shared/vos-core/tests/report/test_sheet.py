from __future__ import annotations

import base64
import io
import re
import sys

import numpy as np
import pytest
from PIL import Image

from vos_core.errors import UsageError
from vos_core.report import Picture, Section, Table, build_sheet, chart, plain_figure, write_sheet

PICTURE = Picture(np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3), "a ramp")
TABLE = Table(("run", "loss"), (("a & b", "0.5"),), caption="Loss after training.")


def test_a_sheet_holds_text_tables_and_every_pixel():
    html = build_sheet(
        [Section("First", ("Some <words>.",), (TABLE,), pictures=(PICTURE,))], title="T & t", lead="Why.", footer="End."
    )
    assert "<h1>T &amp; t</h1>" in html
    for words in (
        "Some &lt;words&gt;.",
        "a &amp; b",
        "Loss after training.",
        "Why.",
        "End.",
        'href="#section-1"',
        'alt="a ramp"',
    ):
        assert words in html
    (uri,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))), PICTURE.rgb)
    assert "<script>" not in html  # nothing to draw, so plotly's megabytes stay out


def test_charts_are_embedded_with_ids_of_their_own():
    pytest.importorskip("plotly")
    figure = plain_figure("loss", x_title="step")
    figure.add_scatter(y=[3.0, 2.0])
    sections = [Section(name, charts=(chart(name, figure, summary="it falls"),) * 2) for name in ("one", "two")]
    html = build_sheet(sections, title="Charts")
    assert sorted(re.findall(r'id="(figure-[^"]+)"', html)) == ["figure-1-1", "figure-1-2", "figure-2-1", "figure-2-2"]
    assert "Plotly.react" in html


def test_without_plotly_the_sheet_says_what_to_install(monkeypatch):
    pytest.importorskip("plotly")
    drawn = chart("loss", plain_figure("loss"), summary="it falls")
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert "pip install" in build_sheet([Section("Loss", charts=(drawn,))], title="T")


def test_uneven_rows_and_empty_sheets_are_refused():
    with pytest.raises(UsageError, match="1 cells"):
        Table(("a", "b"), (("only one",),))
    with pytest.raises(UsageError, match="no sections"):
        build_sheet([], title="Nothing")


def test_the_file_is_written(tmp_path):
    write_sheet(tmp_path / "deep" / "sheet.html", [Section("One")], title="Written", producer="a test")
    text = (tmp_path / "deep" / "sheet.html").read_text(encoding="utf-8")
    assert "<h1>Written</h1>" in text
    assert "by a test." in text
