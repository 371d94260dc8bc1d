from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from vos_core.cli.main import main
from vos_core.io.masks import read_mask, write_mask

T = 6


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["eval", *map(str, arguments)])


def write(folder: Path, *, shift: int = 0, first: int = 0, step: int = 1, digits: int = 5, binary: bool = False) -> None:
    for t in range(T):
        labels = np.zeros((40, 70), np.uint8)
        labels[5 + shift : 20 + shift, 5 + t : 25 + t] = 1
        labels[25:35, 30 + t : 50 + t] = 2
        write_mask(folder / f"{first + step * t:0{digits}d}.png", labels, binary=binary)


def davis(
    root: Path, *, parent: str = "Annotations", year: str = "2017", names: tuple[str, ...] = ("a", "b"), **options: Any
) -> Path:
    for name in names:
        write(root / parent / "480p" / name, **options)
    (root / "ImageSets" / year).mkdir(parents=True)
    (root / "ImageSets" / year / "val.txt").write_text("".join(f"{name}\n" for name in names))
    return root


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write(tmp_path / "results" / "a")
    write(tmp_path / "results" / "b", shift=2)
    return tmp_path / "results"


@pytest.mark.parametrize("below", ["", "trainval", "2017/trainval"])
def test_davis_finds_flat_and_split_roots_and_writes_the_official_files(below: str, tmp_path: Path, results: Path) -> None:
    davis(tmp_path / "DAVIS" / below)
    found = run("davis", "--davis-path", tmp_path / "DAVIS", "--results-path", results, "-n", 1)
    assert found.exit_code == 0, found.output
    assert "mean over 4 objects of 2 videos" in found.stdout
    assert "Written: " in found.stderr
    header, line = (results / "global_results-val.csv").read_text().splitlines()
    assert header == "J&F-Mean,J-Mean,J-Recall,J-Decay,F-Mean,F-Recall,F-Decay"
    rows = (results / "per-sequence_results-val.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["Sequence", "a_1", "a_2", "b_1", "b_2"]
    assert rows[1] == "a_1,1.000,1.000"
    j = [float(row.split(",")[1]) for row in rows[1:]]
    assert float(line.split(",")[1]) == pytest.approx(np.mean(j), abs=1e-3)
    assert not (results / "scores.txt").exists()


def test_davis_formats_sequences_and_json(tmp_path: Path, results: Path) -> None:
    davis(tmp_path / "DAVIS")
    common = ("davis", "--davis-path", tmp_path / "DAVIS", "--results-path", results, "--output", tmp_path / "out", "-n", 1)
    found = run(*common, "--sequences", "a", "--format", "txt", "--json")
    assert found.exit_code == 0, found.output
    printed = json.loads(found.stdout)
    assert printed["scores"]["J-Mean"] == 1.0
    assert [item["object"] for item in printed["objects"]] == ["1", "2"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scores.txt"]
    assert (tmp_path / "out" / "scores.txt").read_text().splitlines()[:2] == ["GlobalMean: 1.000000", "JMean: 1.000000"]
    assert run(*common, "--sequences", "a,zebra").exit_code == 2
    assert "zebra" in run(*common, "--sequences", "zebra").output
    assert run(*common, "--format", "xls").exit_code == 2


def test_davis_unsupervised_matches_and_limits_proposals(tmp_path: Path, results: Path) -> None:
    davis(tmp_path / "DAVIS", parent="Annotations_unsupervised", year="2019")
    for path in (results / "a").iterdir():
        write_mask(path, np.array([0, 2, 1], np.uint8)[read_mask(path)])
    common = ("davis", "--davis-path", tmp_path / "DAVIS", "--results-path", results, "--task", "unsupervised", "-n", 1)
    found = run(*common, "--sequences", "a", "--json")
    assert json.loads(found.stdout)["scores"]["J&F-Mean"] == 1.0
    assert [(item["object"], item["row"]) for item in json.loads(found.stdout)["objects"]] == [("2", "1"), ("1", "2")]
    limited = run(*common, "--max-proposals", 1)
    assert limited.exit_code == 1
    assert "has the id 2" in limited.output
    assert run(*common, "--year", "2016").exit_code == 2


def test_davis_2016_merges_objects_against_grey_truth(tmp_path: Path, results: Path) -> None:
    root = tmp_path / "DAVIS"
    for name in ("a", "b"):
        write(root / "Annotations" / "480p" / name, binary=True)
    found = run("davis", "--davis-path", root, "--results-path", results, "--year", "2016", "-n", 1, "--json")
    assert found.exit_code == 0, found.output
    assert "has no list val.txt" in found.stderr
    assert [item["scores"]["J-Recall"] for item in json.loads(found.stdout)["objects"]] == [1.0, 1.0]


def test_faults_leave_with_code_1_and_wrong_use_with_code_2(tmp_path: Path, results: Path) -> None:
    davis(tmp_path / "DAVIS")
    (results / "b" / "00003.png").unlink()
    common = ("davis", "--davis-path", tmp_path / "DAVIS", "--results-path", results, "-n", 1)
    broken = run(*common)
    assert broken.exit_code == 1
    assert "video b, frame 00003" in broken.stderr
    assert not (results / "results.json").exists()
    allowed = run(*common, "--missing", "empty")
    assert allowed.exit_code == 0
    assert "1 predicted masks are absent" in allowed.stderr
    assert run("davis", "--davis-path", tmp_path / "nowhere", "--results-path", results).exit_code == 2
    (tmp_path / "empty").mkdir()
    nothing = run("davis", "--davis-path", tmp_path / "empty", "--results-path", results)
    assert nothing.exit_code == 1
    assert "holds no DAVIS annotations" in nothing.output


def test_reuse_takes_stored_scores_until_masks_change(tmp_path: Path, results: Path) -> None:
    davis(tmp_path / "DAVIS")
    common = ("davis", "--davis-path", tmp_path / "DAVIS", "--results-path", results, "-n", 1, "--json")
    first = json.loads(run(*common).stdout)["scores"]
    stored = json.loads((results / "results.json").read_text())
    stored["objects"][0]["values"]["J"] = [0.0] * (T - 2)
    (results / "results.json").write_text(json.dumps(stored))
    reused = json.loads(run(*common, "--reuse").stdout)["scores"]
    assert reused["J-Mean"] == pytest.approx(first["J-Mean"] - 0.25)
    assert json.loads(run(*common, "--re").stdout)["scores"] == first
    write(results / "a", shift=3)
    assert json.loads(run(*common, "--reuse").stdout)["scores"]["J-Mean"] < first["J-Mean"]


def test_legacy_decay_differs_only_for_long_videos(tmp_path: Path) -> None:
    for side, size in (("DAVIS/Annotations/480p", 0), ("results", 6)):
        for t in range(262):
            labels = np.zeros((12, 20), np.uint8)
            labels[2 : 10 - (size if t > 200 else 0), 4:16] = 1
            write_mask(tmp_path / side / "long" / f"{t:05d}.png", labels)
    common = ("davis", "--davis-path", tmp_path / "DAVIS", "--results-path", tmp_path / "results", "-n", 1, "--json")
    right = json.loads(run(*common).stdout)["scores"]
    legacy = json.loads(run(*common, "--legacy-decay").stdout)["scores"]
    assert right["J-Decay"] > 0
    assert legacy["J-Decay"] is None
    assert right["J-Mean"] == legacy["J-Mean"]


def test_folder_flags(tmp_path: Path, results: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / "truth" / name)
    common = ("folder", "-g", tmp_path / "truth", "-m", results, "-n", 2, "--output", tmp_path / "out")
    found = run(*common)
    assert found.exit_code == 0, found.output
    assert "1 videos are on one side only and not scored: c" in found.stderr
    lines = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert lines[0] == "sequence    ,obj,  J&F,    J,    F"
    assert lines[2] == "a           ,001,100.0,100.0,100.0"
    assert run(*common, "--strict").exit_code == 1
    frames = [json.loads((tmp_path / "out" / "results.json").read_text())["objects"][0]["frames"]]
    run(*common, "-d")
    frames.append(json.loads((tmp_path / "out" / "results.json").read_text())["objects"][0]["frames"])
    assert [len(names) for names in frames] == [T - 2, T]
    binary = run(*common, "--binary", "--json")
    assert [item["object"] for item in json.loads(binary.stdout)["objects"]] == ["1", "1"]


def test_sav_trackeval_and_ytvos(tmp_path: Path, results: Path) -> None:
    truth = tmp_path / "truth"
    for name in ("a", "b"):
        write(truth / name)
    out = ("--output", tmp_path / "out", "-n", 1, "--json")
    sav = run("sav", "--gt_root", truth, "--pred_root", results, "--strict", *out)
    assert json.loads(sav.stdout)["protocol"] == "sa-v"
    tracks = run("trackeval", "--gt", truth, "--pred", results, "--strict", *out)
    assert json.loads(tracks.stdout)["objects"][0]["scores"]["J-Mean"] == 1.0
    groups = tmp_path / "groups.json"
    groups.write_text(json.dumps({"a": {"1": "seen", "2": "unseen"}}))
    ytvos = run("ytvos", "--gt", truth, "--pred", results, "--groups", groups, *out)
    assert json.loads(ytvos.stdout)["scores"]["G"] == 1.0
    groups.write_text("[")
    broken = run("ytvos", "--gt", truth, "--pred", results, "--groups", groups, *out)
    assert broken.exit_code == 1
    assert "groups.json" in broken.output


def test_lvos_files_and_flags(tmp_path: Path) -> None:
    root = tmp_path / "LVOS"
    for name in ("a", "b"):
        write(root / "valid" / "Annotations" / name, first=1, step=5, digits=8)
        write(tmp_path / "results" / name, first=1, step=5, digits=8)
    common = ("lvos", "--lvos_path", root, "--results_path", tmp_path / "results", "--mp_nums", 1, "--json")
    assert "holds no valid_meta.json" in run(*common).output
    ranges = {"start": 1, "end": 1 + 5 * (T - 1), "frame_nums": T}
    meta = {"videos": {name: {"objects": {k: {"frame_range": ranges} for k in "12"}} for name in ("a", "b")}}
    (root / "valid_meta.json").write_text(json.dumps(meta))
    found = run(*common)
    assert found.exit_code == 0, found.output
    assert "all videos count as seen" in found.stderr
    (tmp_path / "names.txt").write_text("b\n")
    with_list = json.loads(run(*common, "--unseen", tmp_path / "names.txt").stdout)
    assert with_list["scores"]["J-unseen-Mean"] == 1.0
    assert (tmp_path / "results" / "per-sequence_results-valid.csv").read_text().splitlines()[1] == "a_1,1.000,1.000,0.000"
    legacy = json.loads(run(*common, "--task", "unsup_multiple", "--legacy-range").stdout)
    assert legacy["objects"][0]["scores"]["J"] == pytest.approx((T - 1) / T)
    assert run(*common, "--legacy-range").exit_code == 2


def test_vost_and_mosev2(tmp_path: Path, results: Path) -> None:
    root = tmp_path / "VOST"
    for name in ("a", "b"):
        write(root / "Annotations" / name)
    common = ("vost", "--dataset_path", root, "--results_path", results, "-n", 1)
    assert "val.txt" in run(*common).output
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "val.txt").write_text("b\na\n")
    assert run(*common, "--re").exit_code == 0
    rows = (results / "per-sequence_results-val.csv").read_text().splitlines()
    assert rows[0] == "Sequence,J-Mean,J_last-Mean"
    assert rows[3] == "a_1,1.000000,1.000000"
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps({"videos": {"a": {"length": T, "height": 40, "width": 70, "objects": {"1": {}, "2": {}}}}}))
    found = run("mosev2", "--meta", meta, "--ann", root / "Annotations", "--pred", results, "--output", tmp_path / "out", "-n", 1)
    assert found.exit_code == 0, found.output
    lines = (tmp_path / "out" / "scores.txt").read_text().splitlines()
    assert lines[0] == "J&F_new: 100.00"
    assert lines[-1] == "Copy-Paste: 100.0,100.0,100.0,nan,nan,100.0,100.0"


def test_every_command_has_help_with_an_example() -> None:
    assert run("--help").exit_code == 0
    for name in ("davis", "folder", "sav", "lvos", "vost", "mosev2", "ytvos", "trackeval"):
        found = run(name, "--help")
        assert found.exit_code == 0
        assert f"Example: vos eval {name}" in found.output
