from __future__ import annotations

import base64
import io
import re
import sys
from dataclasses import replace
from datetime import datetime, timezone
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from vos_core.errors import UsageError, VosError
from vos_core.report.charts import cost_charts, quality_charts
from vos_core.report.page import build_page, write_page
from vos_core.report.samples import choose_frames, overlay, sample_grids

VOID_TAGS = {"meta", "link", "img", "br"}


class Checker(HTMLParser):
    """Checks that tags are balanced and collects addresses, ids and pictures."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.ids, self.alts, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.addresses += [values[name] for name in ("src", "href") if values.get(name)]
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "img":
            self.alts.append(values.get("alt"))
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)


def parsed(html):
    checker = Checker()
    checker.feed(re.sub(r"<script>.*?</script>", "", html, flags=re.S))
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    return checker


def without_plotly(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)


def test_the_page_is_whole_and_needs_no_network(runs, monkeypatch):
    without_plotly(monkeypatch)
    html = build_page(runs.records, title="Two runs", clips=runs.clips)
    page = parsed(html)
    for address in page.addresses:
        assert address.startswith(("data:", "#")), address
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    assert "url(" not in html
    assert "@import" not in html
    assert all(page.alts)


def test_the_page_shows_scores_costs_untrained_marks_and_failures(runs, failed, monkeypatch):
    without_plotly(monkeypatch)
    created = datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc)
    html = build_page((*runs.records, failed), title="A & B", clips=runs.clips, created=created)
    text = " ".join(" ".join(parsed(html).text).split())
    for words in (
        "A & B",
        "2026-01-02 03:04 UTC",
        "100.0",
        "0.0100",
        "0.5000",
        "untrained",
        "taken for object 2",
        "to the end",
        "2.7.0",
    ):
        assert words in text, words
    assert "did not finish the same clips" in text
    assert "frame &lt;b&gt;00003&lt;/b&gt; is torn" in html
    assert 'class="mark">untrained' in html


def test_an_untrained_score_is_never_marked_best(runs, monkeypatch):
    without_plotly(monkeypatch)
    fast = replace(runs.poor, scores={**runs.good.scores, "J&F": 1.0})
    worse = replace(runs.good, method="worse", scores={**runs.good.scores, "J&F": 0.5})
    html = build_page((fast, runs.good, worse))
    best = re.findall(r'<th scope="row">good</th>.*?</tr>', html, flags=re.S)[0]
    assert best.count('<td class="best">100.0</td>') == 3
    rows = re.findall(r'<th scope="row">poor</th>.*?</tr>', html, flags=re.S)
    assert 'class="best"' not in rows[0]


def test_without_plotly_the_page_says_how_to_get_charts(runs, monkeypatch):
    without_plotly(monkeypatch)
    text = " ".join(parsed(build_page(runs.records)).text)
    assert 'pip install "vos-core[report]"' in text


def test_with_plotly_every_figure_is_embedded_once_and_cannot_close_its_script(runs):
    pytest.importorskip("plotly")
    evil = replace(runs.good, method="</script><script>alert(1)")
    html = build_page((evil, runs.poor), clips=runs.clips)
    assert "</script><script>alert" not in html
    figures = re.findall(r'data-figure="([^"]+)"', html)
    assert len(figures) == 4 + 2
    for name in figures:
        assert html.count(f'id="{name}"') == 1
    assert "Plotly.react" in html


def test_charts_hold_the_numbers_of_the_records(runs):
    pytest.importorskip("plotly")
    hardest = quality_charts(runs.records)[0]
    assert {len(line["y"]) for line in hardest.figure["data"]} == {4}
    assert max(hardest.figure["data"][0]["y"]) == 100, "percent, as in the tables"
    speed = cost_charts(runs.records)[0]
    assert speed.figure["data"][0]["y"] == [pytest.approx(0.01), pytest.approx(0.5)]
    assert cost_charts([replace(runs.good, clips=())]) == []
    assert quality_charts([replace(runs.good, scores=None)]) == []


def test_the_page_says_what_all_runs_have_in_common(runs, monkeypatch):
    without_plotly(monkeypatch)
    html = build_page(runs.records, about={"source": {"commit": "abc123", "modified": False}, "set": "made"})
    for key, text in (("source commit", "abc123"), ("source modified", "false"), ("set", "made")):
        assert f'<tr><th scope="row">{key}</th><td class="wrap" colspan="2">{text}</td></tr>' in html


def test_runs_without_truth_get_dashes_and_a_note(runs, monkeypatch):
    without_plotly(monkeypatch)
    bare = tuple(replace(clip, annotations=dict(list(clip.annotations.items())[:1])) for clip in runs.clips)
    text = " ".join(parsed(build_page([replace(runs.good, scores=None)], clips=bare)).text)
    assert "No clip had ground truth" in text


def test_no_records_are_refused():
    with pytest.raises(UsageError, match="no runs"):
        build_page([])


def test_pictures_show_truth_and_runs_at_the_worst_frames(runs):
    grids = sample_grids(runs.records, runs.clips)
    assert {grid.clip for grid in grids} == set(runs.names)
    assert [label for label, _ in grids[0].rows] == ["truth", "good", "poor"]
    chosen = dict(choose_frames(runs.records, runs.clips[0], [path.stem for path in runs.clips[0].frames]))
    assert list(chosen) == sorted(chosen)
    assert "worst of poor" in chosen["00002"]
    picture = grids[0].rows[0][1][0]
    image = Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2])))
    assert image.size == (80, 48)
    assert len(sample_grids(runs.records, runs.clips, limit=1)) == 1


def test_missing_masks_are_said_and_unreadable_clips_left_out(runs, tmp_path):
    empty = replace(runs.good, output=str(tmp_path))
    grid = sample_grids([empty], runs.clips[:1])[0]
    assert "has no mask" in grid.rows[1][1][0].text
    broken = replace(runs.clips[0], frames=tuple(tmp_path / path.name for path in runs.clips[0].frames))
    assert sample_grids(runs.records, [broken]) == []


def test_an_overlay_tints_objects_and_leaves_the_rest():
    rgb, labels = np.full((6, 6, 3), 100, np.uint8), np.zeros((6, 6), np.uint8)
    labels[2:5, 2:5] = 1
    painted = overlay(rgb, labels)
    assert painted[3, 3].tolist() == [161, 65, 65]
    assert painted[0, 0].tolist() == [100, 100, 100]
    assert painted[1, 2].tolist() == [255, 255, 255]
    with pytest.raises(VosError, match="one size"):
        overlay(rgb, labels[1:])


def test_the_file_is_written(runs, tmp_path, monkeypatch):
    without_plotly(monkeypatch)
    write_page(runs.records, tmp_path / "deep" / "page.html", title="Written")
    assert "<h1>Written</h1>" in (tmp_path / "deep" / "page.html").read_text(encoding="utf-8")
