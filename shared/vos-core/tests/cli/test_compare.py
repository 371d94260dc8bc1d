from __future__ import annotations

import importlib
import json
import re
import time

import pytest
from click.testing import CliRunner

from vos_core.cli import compare_run
from vos_core.cli.compare import grouped, pairs
from vos_core.cli.compare_run import MethodSpec, chosen_weights, parse_methods
from vos_core.cli.main import main
from vos_core.contract import MethodInfo
from vos_core.data.layout import open_layout
from vos_core.data.synthetic_write import ClipPlan, write_folder
from vos_core.errors import InterruptError, UsageError


def vos(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic") / "clips"
    write_folder(root, ClipPlan(clips=2, frames=6, height=64, width=96, objects=2, scenarios=("motion", "late_entry"), seed=1))
    return root


@pytest.fixture(scope="module")
def compared(clips, tmp_path_factory):
    output = tmp_path_factory.mktemp("compared")
    return output, vos("compare", "--methods", "copy,flow", "--clips", clips, "-o", output, "--title", "Two")


def test_two_methods_give_one_table_one_record_and_one_page(compared):
    output, result = compared
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["copy", "flow"]
    record = json.loads((output / "record.json").read_text())
    assert [row["clips_done"] for row in record["table"]] == [2, 2]
    for row in record["table"]:
        assert 0.3 < row["jf"] < 1.0
        assert row["seconds_per_frame"] > 0
        assert row["peak_memory_bytes"] > 2**20
    assert {row["clip"] for row in record["runs"][0]["scores"]["per_object"]} == {"motion-001", "late-entry-002"}
    page = (output / "page.html").read_text()
    assert "<h1>Two</h1>" in page
    assert page.count("data:image/jpeg;base64,") >= 2 * 3 * 3
    assert (output / "flow" / "motion-001" / "00005.png").is_file()


def test_a_repeated_comparison_keeps_what_is_done(compared, clips):
    output, _ = compared
    mask = output / "copy" / "motion-001" / "00003.png"
    stamp = mask.stat().st_mtime_ns
    result = vos("compare", "--methods", "copy,flow", "--clips", clips, "-o", output, "--json")
    assert result.exit_code == 0, result.output
    assert mask.stat().st_mtime_ns == stamp
    assert json.loads(result.stdout)["table"][0]["clips_done"] == 2


def test_report_makes_the_page_of_runs_that_exist(compared, clips, tmp_path):
    output, _ = compared
    scored = vos("report", output / "copy", output / "flow", "--clips", clips, "-o", tmp_path / "page.html", "--json")
    assert scored.exit_code == 0, scored.output
    table = json.loads(scored.stdout)["table"]
    record = json.loads((output / "record.json").read_text())["table"]
    assert [row["jf"] for row in table] == [row["jf"] for row in record]
    bare = vos("report", output / "copy", "-o", tmp_path / "bare.html")
    assert bare.exit_code == 0, bare.output
    assert "No clip had ground truth" in (tmp_path / "bare.html").read_text()
    part = vos("report", output / "copy", "--clips", clips, "--only", "motion-001", "-o", tmp_path / "part.html", "--json")
    assert json.loads(part.stdout)["table"][0]["clips_done"] == 1


def test_a_comparison_is_made_again_from_its_record(compared, clips, tmp_path):
    output, _ = compared
    again = vos("report", output / "record.json", "-o", tmp_path / "page.html", "--json")
    assert again.exit_code == 0, again.output
    record = json.loads((output / "record.json").read_text())
    assert json.loads(again.stdout) == record
    assert f"<h1>{record['title']}</h1>" in (tmp_path / "page.html").read_text()
    with_pictures = vos("report", output / "record.json", "--clips", clips, "-o", tmp_path / "page.html", "--json")
    assert json.loads(with_pictures.stdout)["table"] == record["table"]
    assert (tmp_path / "page.html").read_text().count("data:image/jpeg;base64,") >= 2 * 3 * 3


def test_a_run_folder_without_a_record_is_refused(tmp_path):
    result = vos("report", tmp_path, "-o", tmp_path / "page.html")
    assert result.exit_code != 0
    assert "run.json" in result.output


def test_a_broken_clip_fails_alone_with_exit_1(clips, tmp_path):
    copy = tmp_path / "clips"
    write_folder(copy, ClipPlan(clips=2, frames=6, height=64, width=96, objects=2, scenarios=("motion",), seed=1))
    (copy / "JPEGImages" / "motion-001" / "00003.jpg").write_bytes(b"torn")
    result = vos("compare", "--methods", "copy,flow", "--clips", copy, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "Failed: copy, clip 'motion-001'" in result.output
    assert "Failed: flow, clip 'motion-001'" in result.output
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert (record["table"][0]["clips_done"], record["table"][0]["clips_failed"]) == (1, 1)
    assert list(record["runs"][0]["scores"]["unscored"]) == ["motion-001"]


SERVERS = """
import os, signal, time
from vos_core.errors import WeightsError

def killed(pipe, *rest):
    os.kill(os.getpid(), signal.SIGKILL)

def refused(pipe, *rest):
    pipe.send(WeightsError("weights file x.pth is torn"))

def interrupted(pipe, *rest):
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)
"""


def compare_with(serve, clips, output, monkeypatch):
    # A new process can import a module on the path, but not this one.
    name = f"servers_{serve}"
    (output / f"{name}.py").write_text(SERVERS)
    monkeypatch.syspath_prepend(output)
    monkeypatch.setattr(compare_run, "_serve", getattr(importlib.import_module(name), serve))
    return compare_run.compare([MethodSpec("copy")], open_layout("folder", clips).clips, output=output, title="T", device="cpu")


@pytest.mark.parametrize(("serve", "message"), [("killed", "exit code -9 (killed"), ("refused", "x.pth is torn")])
def test_what_stops_a_method_fails_its_clips_and_not_the_comparison(clips, tmp_path, monkeypatch, serve, message):
    (record,) = compare_with(serve, clips, tmp_path, monkeypatch)
    assert [clip.status for clip in record.clips] == ["failed", "failed"]
    assert message in record.clips[0].error
    assert message in (tmp_path / "page.html").read_text()


def test_a_signal_stops_the_method_too_and_is_no_result(clips, tmp_path, monkeypatch):
    start = time.monotonic()
    with pytest.raises(InterruptError, match="copy"):
        compare_with("interrupted", clips, tmp_path, monkeypatch)
    assert time.monotonic() - start < 30
    assert not (tmp_path / "record.json").exists()


def test_clips_with_prompts_only_run_and_show_no_score(clips, tmp_path):
    copy = tmp_path / "clips"
    write_folder(copy, ClipPlan(clips=1, frames=5, height=64, width=96, objects=2, scenarios=("motion",), seed=1))
    for index in range(1, 5):
        (copy / "Annotations" / "motion-001" / f"{index:05d}.png").unlink()
    result = vos("compare", "--methods", "copy", "--clips", copy, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[2].split()[2:5] == ["-", "-", "-"]


def test_clips_without_a_mask_are_skipped_and_named_ones_fail(clips, tmp_path):
    copy = tmp_path / "clips"
    write_folder(copy, ClipPlan(clips=2, frames=5, height=64, width=96, objects=1, scenarios=("motion",), seed=1))
    for path in (copy / "Annotations" / "motion-001").iterdir():
        path.unlink()
    result = vos("compare", "--methods", "copy", "--clips", copy, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Skipped: clip 'motion-001': it has no mask" in result.stderr
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert (record["table"][0]["clips_done"], record["table"][0]["clips_failed"]) == (1, 0)
    assert record["runs"][0]["clips"][0]["status"] == "skipped"
    assert "left out: it has no mask" in (tmp_path / "out" / "page.html").read_text()
    named = vos("compare", "--methods", "copy", "--clips", copy, "-o", tmp_path / "named", "--only", "motion-001,motion-002")
    assert named.exit_code == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "copy,nonesuch"], "nonesuch"),
        (["--methods", "copy,copy"], "occur twice"),
        (["--methods", ","], "no methods"),
        (["--methods", "copy", "--weights", "flow=random"], "flow"),
        (["--methods", "copy", "--weights", "copy"], "--weights copy"),
        (["--methods", "copy", "--weights", "copy=a", "--weights", "copy=b"], "twice"),
        (["--methods", "copy", "--set", "top=20"], "METHOD.KEY"),
        (["--methods", "copy", "--set", "copy.no_such=1"], "no_such"),
        (["--methods", "copy:large"], "large"),
    ],
)
def test_wrong_use_is_refused_with_exit_2(clips, tmp_path, words, message):
    result = vos("compare", "--clips", clips, "-o", tmp_path / "out", *words)
    assert result.exit_code == 2, result.output
    assert message in result.output


def test_no_clips_are_refused(tmp_path):
    assert vos("compare", "--methods", "copy", "-o", tmp_path).exit_code == 2


def test_weights_and_options_go_to_their_method():
    specs = parse_methods("copy, flow", weights={"copy": "a.pth"}, options={"flow": {"x": 1}})
    assert [(s.method, s.weights, dict(s.options)) for s in specs] == [("copy", "a.pth", {}), ("flow", "auto", {"x": 1})]
    assert {"copy", "flow"} <= {spec.method for spec in parse_methods(None)}
    assert pairs(["a=b=c"], option="--weights") == {"a": "b=c"}
    assert grouped(["stcn-ttt.memory.every=3"]) == {"stcn-ttt": {"memory": {"every": 3}}}
    with pytest.raises(UsageError, match="METHOD=VALUE"):
        pairs(["=b"], option="--weights")


def test_weights_that_are_not_here_become_random_only_when_asked(monkeypatch, tmp_path):
    from vos_core.weights import registry

    entry = registry.WeightsEntry(name="compare-test-v1", method="heavy", url="https://example.org/v1.pth")
    monkeypatch.setenv("VOS_CACHE", str(tmp_path))
    monkeypatch.setattr(registry, "_ENTRIES", {entry.name: entry})
    info = MethodInfo(name="heavy", summary="", build=lambda request: None, weights={"": (entry.name,)})
    monkeypatch.setattr("vos_core.cli.compare_run.get_method", lambda name: info)
    spec = MethodSpec("heavy")
    assert chosen_weights(spec, missing="download") == "auto"
    assert chosen_weights(spec, missing="random") == "random"
    assert chosen_weights(MethodSpec("heavy", weights="mine.pth"), missing="random") == "mine.pth"
    entry.cached_path.parent.mkdir(parents=True)
    entry.cached_path.write_bytes(b"weights")
    assert chosen_weights(spec, missing="random") == "auto"


def test_help_ends_with_an_example():
    for name in ("compare", "report"):
        result = vos(name, "--help")
        assert result.exit_code == 0
        assert re.search(r"Example: vos " + name, " ".join(result.output.split()))
