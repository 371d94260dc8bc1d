from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from vos_core.data.synthetic_write import ClipPlan, write_folder
from vos_core.errors import ConfigError, UsageError

SCRIPT = Path(__file__).resolve().parents[4] / "benchmarks" / "run.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the benchmark is part of the repository, not of the package")

SUITE = """
title: Tiny
sets:
  - name: made
    synthetic: {clips: 1, frames: 4, height: 48, width: 64, objects: 1, scenarios: [motion]}
  - {name: absent, layout: davis, root: $VOS_TEST_NOT_SET, split: val}
methods: copy
device: cpu
"""


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("benchmark_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmark_run", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(module, "OUT", tmp_path / "out")
    monkeypatch.delenv("VOS_TEST_NOT_SET", raising=False)
    (tmp_path / "tiny.yaml").write_text(SUITE)
    return module


def run(benchmark, *words):
    return CliRunner().invoke(benchmark.command, [str(word) for word in words])


def test_a_suite_gives_a_table_a_record_and_a_page_and_names_skipped_sets(benchmark, tmp_path):
    result = run(benchmark, "--suite", tmp_path / "tiny.yaml", "--threads", "1")
    assert result.exit_code == 0, result.output
    assert "Skipped: set absent" in result.stderr
    assert result.stdout.splitlines()[0] == "made"
    folder = tmp_path / "out" / "tiny" / "made"
    record = json.loads((folder / "record.json").read_text())
    assert (record["suite"]["threads"], record["set"]) == (1, "made")
    assert record["machine"]["cores"] >= 1
    assert set(record["source"]) == {"commit", "modified"}
    assert record["table"][0]["jf"] > 0.3
    assert (folder / "page.html").stat().st_size > 10_000


def test_clips_given_replace_the_sets_of_the_suite(benchmark, tmp_path):
    write_folder(tmp_path / "mine", ClipPlan(clips=1, frames=4, height=48, width=64, objects=1, scenarios=("scale",)))
    words = ["--suite", tmp_path / "tiny.yaml", "--clips", tmp_path / "mine", "-o", tmp_path / "results"]
    result = run(benchmark, *words)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "results" / "mine" / "record.json").read_text())
    assert [clip["name"] for clip in record["runs"][0]["clips"]] == ["scale-000"]


def test_a_suite_gives_options_to_the_methods_that_run_alone(benchmark, tmp_path):
    suite = SUITE + "options: [flow.method=x, stcn-ttt.res=96]\n"
    (tmp_path / "options.yaml").write_text(suite)
    plan = benchmark.read_suite(str(tmp_path / "options.yaml"), {})
    assert benchmark.options_of(plan, None) == ()
    assert benchmark.options_of(plan, "copy, flow:a") == ("flow.method=x",)
    assert run(benchmark, "--suite", tmp_path / "options.yaml").exit_code == 0
    wrong = run(benchmark, "--suite", tmp_path / "options.yaml", "--methods", "flow")
    assert isinstance(wrong.exception, ConfigError)
    assert "method" in str(wrong.exception)


def test_a_suite_without_any_data_is_refused(benchmark, tmp_path):
    (tmp_path / "far.yaml").write_text("sets: [{name: a, layout: davis, root: $VOS_TEST_NOT_SET}]")
    result = run(benchmark, "--suite", tmp_path / "far.yaml", "--methods", "copy")
    assert isinstance(result.exception, UsageError)
    assert "has its data here" in str(result.exception)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sets: []", "sets"),
        ("sets: [{name: a}]", "synthetic, or a layout"),
        ("sets: [{name: a, layout: davis}]", "layout with its root"),
        ("sets: [{name: ../a, synthetic: {}}]", "name"),
        ("sets: [{name: a, synthetic: {frame: 3}}]", "frame"),
        ("set: 1", "sets"),
    ],
)
def test_a_suite_that_says_what_no_field_takes_is_refused(benchmark, tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        benchmark.read_suite(str(tmp_path / "bad.yaml"), {})
    with pytest.raises(ConfigError, match="smoke"):
        benchmark.read_suite("nonesuch", {})


def test_the_suites_of_the_repository_are_valid_and_their_clips_can_be_drawn(benchmark):
    for path in benchmark.SUITES.glob("*.yaml"):
        suite = benchmark.read_suite(path.stem, {})
        for item in suite.sets:
            if item.synthetic is not None:
                settings = item.synthetic.model_dump()
                small = ClipPlan(**{**settings, "height": 96, "width": 160})
                assert len({name for name, _, _ in small.scenes()}) == settings["clips"]


def test_git_state_outside_a_checkout_is_unknown(benchmark, tmp_path):
    assert benchmark.git_state(tmp_path) == {"commit": None, "modified": None}
