from __future__ import annotations

import json
from dataclasses import replace

import pytest

from vos_core.errors import OutputError, UsageError
from vos_core.report.compare import (
    clip_rows,
    comparison_record,
    comparison_rows,
    labels,
    read_comparison,
    same_clips,
    seconds,
    text_table,
)
from vos_core.report.scores import frame_means, object_scores


def test_a_row_holds_means_and_maxima_over_the_clips(runs):
    good, poor = comparison_rows(runs.records)
    assert (good.label, good.weights, good.trained, good.jf) == ("good", "best-v1", True, 1.0)
    assert good.seconds_per_frame == pytest.approx(0.01)
    assert good.fps == pytest.approx(100)
    assert (good.peak_memory_bytes, good.clips_done, good.clips_failed, good.frames) == (300 * 2**20, 2, 0, 12)
    assert (poor.weights, poor.trained) == ("untrained", False)


def test_the_mean_time_weighs_frames_not_clips(runs):
    long = replace(runs.good.clips[0], step_seconds=(0.03,) * 18)
    (row,) = comparison_rows([replace(runs.good, clips=(long, runs.good.clips[1]))])
    assert row.seconds_per_frame == pytest.approx((18 * 0.03 + 6 * 0.01) / 24)


def test_failed_clips_are_counted_and_cost_nothing(runs, failed):
    (row,) = comparison_rows([failed])
    assert (row.clips_done, row.clips_failed, row.jf) == (1, 1, None)
    nothing = comparison_rows([replace(failed, clips=failed.clips[:1])])[0]
    assert (nothing.seconds_per_frame, nothing.fps, nothing.peak_memory_bytes, nothing.seconds_adapt) == (None,) * 4
    assert not same_clips([failed, runs.good])
    assert same_clips(runs.records)


def test_no_runs_are_refused():
    with pytest.raises(UsageError, match="no runs"):
        comparison_rows([])


def test_labels_tell_runs_of_one_method_apart(runs):
    small, large = replace(runs.good, variant="small"), replace(runs.good, variant="large")
    assert labels([small, large, runs.poor]) == ("good small", "good large", "poor")
    seeded = replace(runs.good, weights={"name": "random", "trained": False})
    assert labels([runs.good, seeded]) == ("good best-v1", "good untrained")
    assert labels([runs.good, runs.good]) == ("good best-v1 #1", "good best-v1 #2")


def test_the_text_table_marks_untrained_runs_and_missing_values(runs, failed):
    lines = text_table(comparison_rows([*runs.records, replace(failed, method="third")])).splitlines()
    assert lines[0].split()[:4] == ["method", "weights", "J&F", "%"]
    assert "100.0" in lines[2]
    assert "untrained" in lines[3]
    assert lines[4].split()[2:5] == ["-", "-", "-"]
    assert "say nothing" in lines[-1]
    assert "say nothing" not in text_table(comparison_rows([runs.good]))


def test_clip_rows_keep_the_status_of_every_run(runs, failed):
    table = clip_rows([failed, runs.poor, replace(runs.good, clips=())])
    assert [name for name, _ in table] == list(runs.names)
    assert [cell[0] for cell in table[0][1]] == ["failed", "done", "not run"]
    assert table[1][1][1][1] == pytest.approx((0.275 + 0.3) / 2 / 2)


def test_frame_means_average_the_objects_that_have_a_value(runs):
    rows = [dict(row) for row in runs.poor.scores["per_object"]]
    rows[0]["J_frames"] = [float("nan"), 0.0, 0.0, 0.0]
    rows[0]["F_frames"] = [float("nan"), 0.0, 0.0, 0.0]
    record = replace(runs.poor, scores={"per_object": rows})
    assert frame_means(record, runs.names[0])["00001"] == 1.0
    assert object_scores(record)[0].j_frames[0] is None
    assert object_scores(replace(record, scores=None)) == ()


def test_the_record_is_json_without_paths(runs):
    text = json.dumps(comparison_record(runs.records, title="t"), allow_nan=False)
    data = json.loads(text)
    assert [row["label"] for row in data["table"]] == ["good", "poor"]
    assert data["format"] == 1
    assert str(runs.good.output) not in text
    assert len(data["runs"][0]["clips"][0]["step_seconds"]) == 6


def test_short_times_are_not_rounded_away():
    assert [seconds(value) for value in (None, 0.0, 0.00019, 0.0123456, 12.0)] == ["-", "0.0000", "0.00019", "0.0123", "12.0000"]


def test_a_record_gives_back_its_runs_and_where_their_masks_lie(runs, tmp_path):
    records = [runs.good, replace(runs.poor, variant="small"), replace(runs.poor, method="third", variant="large")]
    (tmp_path / "poor-small").mkdir()
    record = {**comparison_record(records, title="Three"), "machine": {"cores": 2}}
    (tmp_path / "any-name.json").write_text(json.dumps(record))
    found = read_comparison(tmp_path / "any-name.json")
    assert (found.title, found.about) == ("Three", {"machine": {"cores": 2}})
    assert [run.output for run in found.records] == [str(tmp_path / name) for name in ("good", "poor-small", "third")]
    again = json.loads(json.dumps(comparison_record(found.records, title=found.title)))
    assert {**again, **found.about} == json.loads(json.dumps(record)), "nothing of a run is lost"
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(OutputError, match=r"run\.json holds no comparison"):
        read_comparison(tmp_path / "run.json")
