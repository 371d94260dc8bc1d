from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vos_core.io.png import read_indices
from vos_core.testing import GOLDENS, SHARED, assert_within, golden_cases, needs_shared

pytestmark = pytest.mark.parity
FOLDER = GOLDENS / "vos-core"
Run = Callable[..., Any]
STATISTICS = (("M", "Mean"), ("R", "Recall"), ("D", "Decay"))


def load(source: Any, sequence: str) -> Any:
    base = {"shared": SHARED, "case": FOLDER}[source["base"]] / source["path"]
    if source["format"] == "png_folders":
        needs_shared()
        labels = np.stack([read_indices(path) for path in sorted((base / sequence).glob("*.png"))])
    else:
        assert source["format"] == "packbits_xor"
        with np.load(base) as arrays:
            packed = np.bitwise_xor.accumulate(arrays[sequence], axis=0)
        labels = np.unpackbits(packed, axis=-1)[..., : source["width"]]
    for edit in source["edits"]:
        labels = EDITS[edit["op"]](labels, edit, sequence)
    return labels


def bound(value: Any, length: int, default: int) -> int:
    if value is None:
        return default
    a, b, c = value
    return a * length // b + c


def replaced(x: Any, edit: Any, sequence: str) -> Any:
    part = x[bound(edit["start"], len(x), 0) : bound(edit["stop"], len(x), len(x))]
    part[part == edit["id"]] = edit["to"]
    return x


def shifted(x: Any, edit: Any, sequence: str) -> Any:
    out = np.zeros_like(x)
    dy, dx = edit["dy"], edit["dx"]
    height, width = x.shape[1:]
    to_rows, to_columns = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
    from_rows, from_columns = slice(max(-dy, 0), height + min(-dy, 0)), slice(max(-dx, 0), width + min(-dx, 0))
    out[:, to_rows, to_columns] = x[:, from_rows, from_columns]
    return out


def rectangle(x: Any, edit: Any, sequence: str) -> Any:
    part = x[:, slice(*(edit["rows"] or (None,))), slice(*(edit["cols"] or (None,)))]
    value = edit["value"][sequence] if isinstance(edit["value"], dict) else edit["value"]
    part[... if edit["where"] is None else part == edit["where"]] = value
    return x


EDITS: dict[str, Callable[[Any, Any, str], Any]] = {
    "binarise": lambda x, edit, sequence: (x > 0).astype(np.uint8),
    "replace": replaced,
    "lag": lambda x, edit, sequence: x[np.maximum(np.arange(len(x)) - edit["frames"], 0)],
    "shift": shifted,
    "lookup": lambda x, edit, sequence: np.array(edit["table"][sequence], np.uint8)[x],
    "rectangle": rectangle,
}


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory, write_masks: Run) -> Run:
    """Write a source of a case once; cases share their sources."""
    done: dict[str, Path] = {}

    def write(case: Any, side: str) -> Path:
        objects = case["objects"] if case.get("mask_layout") else None
        key = json.dumps(
            [case[side], case["sequences"], case["frame_names"], case.get("every"), case.get("mask_layout"), objects]
        )
        if key in done:
            return done[key]
        done[key] = root = tmp_path_factory.mktemp(side)
        names = {**case["frame_names"], "every": case.get("every", 1)}
        for sequence in case["sequences"]:
            labels = load(case[side], sequence)
            layout = case.get("mask_layout")
            if layout is None:
                write_masks(root / sequence, labels, **names)
                continue
            assert layout["kind"] == "object_folders"
            for k in range(1, objects[sequence] + 1):
                folder = f"{layout['first'] + k - 1:0{layout['digits']}d}"
                write_masks(root / sequence / folder, labels == k, **names)
        return root

    return write


def expected(case: Any) -> Any:
    value = json.loads((FOLDER / case["expected"]["file"]).read_text())
    for key in case["expected"]["path"]:
        value = value[key]
    return value


def objects_of(results: Any, by: str = "object") -> dict[str, Any]:
    return {f"{item['video']}_{item[by]}": item for item in results["objects"]}


def check_texts(case: Any, output: Path) -> None:
    for text in case["text"] or ():
        want, got = (FOLDER / text["file"]).read_bytes(), (output / text["name"]).read_bytes()
        if text["compare"] == "set_of_lines":
            assert sorted(got.splitlines()) == sorted(want.splitlines()), text["name"]
        else:
            assert got == want, text["name"]


def check_arrays(case: Any, objects: dict[str, Any]) -> None:
    if not case.get("arrays"):
        return
    with np.load(FOLDER / case["file"]) as arrays:
        for sequence in case["sequences"]:
            for k in range(1, case["objects"][sequence] + 1):
                for metric in ("J", "F"):
                    key = case["arrays"].format(sequence=sequence, object=k, metric=metric)
                    values = objects[f"{sequence}_{k}"]["values"][metric]
                    assert_within(values, arrays[key], case["tolerance"], label=key)


def davis_root(case: Any, tmp_path: Path, truth: Path, parent: str) -> Path:
    root = tmp_path / "DAVIS"
    (root / parent).mkdir(parents=True)
    (root / parent / "480p").symlink_to(truth)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("".join(f"{name}\n" for name in case["sequences"]))
    return root


def check_davis(case: Any, results: Any, by: str) -> None:
    want, objects = expected(case), objects_of(results, by)
    layout = case["expected"]["layout"]
    for metric in ("J", "F"):
        for short, long in STATISTICS:
            column = want[metric][short]
            if layout == "by_sequence":
                column = {f"{sequence}_1": value for sequence, value in column.items()}
            else:
                assert layout == "by_object"
                column = dict(zip(want["objects"], column, strict=True))
            assert set(column) == set(objects)
            for name, value in column.items():
                got = objects[name]["scores"][f"{metric}-{long}"]
                assert_within(got, value, case["tolerance"], label=f"{name} {metric}-{long}")
            if "mean" in want:
                got = results["scores"][f"{metric}-{long}"]
                assert_within(got, want["mean"][metric][short], case["tolerance"], label=f"mean {metric}-{long}")
    check_arrays(case, objects)


@pytest.mark.parametrize("case", golden_cases("vos-core", "davis2017_semi"))
def test_davis2017_semi(case: Any, tmp_path: Path, written: Run, vos_eval: Run) -> None:
    assert case["skip_first_and_last"]
    assert case["unit"] == "fraction"
    root = davis_root(case, tmp_path, written(case, "truth"), "Annotations")
    output = tmp_path / "out"
    results = vos_eval("davis", "--davis-path", root, "--results-path", written(case, "prediction"), output=output)
    check_davis(case, results, "object")
    check_texts(case, output)


@pytest.mark.parametrize("case", golden_cases("vos-core", "davis2017_unsup"))
def test_davis2017_unsupervised(case: Any, tmp_path: Path, written: Run, vos_eval: Run) -> None:
    assert not case["skip_first_and_last"]
    assert case["void"] == 255
    root = davis_root(case, tmp_path, written(case, "truth"), "Annotations_unsupervised")
    output = tmp_path / "out"
    results = vos_eval(
        "davis", "--davis-path", root, "--results-path", written(case, "prediction"), "--task", "unsupervised",
        "--max-proposals", case["max_proposals"], output=output,
    )  # fmt: skip
    check_davis(case, results, "row")
    check_texts(case, output)


def check_folder(case: Any, results: Any) -> None:
    want = expected(case)
    factor = {"percent": 100, "fraction": 1}[case["unit"]]
    for key, name in (("JF", "J&F"), ("J", "J"), ("F", "F")):
        assert_within(factor * results["scores"][name], want[key], case["tolerance"], label=key)
    if case["expected"]["layout"] == "by_video":
        objects = objects_of(results)
        names = {f"{video}_{k}" for video, (columns, _) in want["obj"].items() for k in columns}
        assert set(objects) == names
        for video, columns in want["obj"].items():
            for metric, column in zip(("J", "F"), columns, strict=True):
                for k, value in column.items():
                    got = factor * objects[f"{video}_{k}"]["scores"][metric]
                    assert_within(got, value, case["tolerance"], label=f"{video} {k} {metric}")


@pytest.mark.parametrize("case", golden_cases("vos-core", "vos_benchmark", "sav"))
def test_folder_and_sav(case: Any, tmp_path: Path, written: Run, vos_eval: Run) -> None:
    truth, prediction, output = written(case, "truth"), written(case, "prediction"), tmp_path / "out"
    flags = (["--strict"] if case["strict"] else []) + ([] if case["skip_first_and_last"] else ["-d"])
    if case["kind"] == "sav":
        results = vos_eval("sav", "--gt_root", truth, "--pred_root", prediction, *flags, output=output)
    else:
        results = vos_eval("folder", "-g", truth, "-m", prediction, *flags, output=output)
    check_folder(case, results)
    check_texts(case, output)


@pytest.mark.parametrize("case", golden_cases("vos-core", "vost"))
def test_vost(case: Any, tmp_path: Path, written: Run, vos_eval: Run) -> None:
    assert case["skip_first_and_last"]
    assert case["last_fraction_start"] == 0.75
    root, output = tmp_path / "VOST", tmp_path / "out"
    (root / "ImageSets").mkdir(parents=True)
    (root / "Annotations").symlink_to(written(case, "truth"))
    (root / "ImageSets" / "val.txt").write_text("".join(f"{name}\n" for name in case["sequences"]))
    results = vos_eval("vost", "--dataset_path", root, "--results_path", written(case, "prediction"), output=output)
    want, objects = expected(case), objects_of(results)
    for metric in ("J", "J_last"):
        for short, long in STATISTICS:
            got = results["scores"][f"{metric}-{long}"]
            assert_within(got, want[metric][short], case["tolerance"], label=f"{metric}-{long}")
        assert set(want[metric]["M_per_object"]) == set(objects)
        for name, value in want[metric]["M_per_object"].items():
            assert_within(objects[name]["scores"][f"{metric}-Mean"], value, case["tolerance"], label=name)
    check_texts(case, output)


@pytest.mark.parametrize("case", golden_cases("vos-core", "lvos_semi"))
def test_lvos_semi(case: Any, tmp_path: Path, written: Run, vos_eval: Run) -> None:
    root, output = tmp_path / "LVOS", tmp_path / "out"
    (root / "valid").mkdir(parents=True)
    (root / "valid" / "Annotations").symlink_to(written(case, "truth"))
    (root / "valid" / "valid_meta.json").write_bytes((FOLDER / case["meta"]).read_bytes())
    (root / "unseen_videos.txt").write_text("".join(f"{name}\n" for name in case["unseen_videos"]))
    results = vos_eval("lvos", "--lvos_path", root, "--results_path", written(case, "prediction"), output=output)
    want, objects = expected(case), objects_of(results, "row")
    for group in ("all", "seen", "unseen"):
        for metric in ("J", "F", "V"):
            column = want[group][metric]
            inside = {
                name for name, item in objects.items()
                if group == "all" or (item["video"] in case["unseen_videos"]) == (group == "unseen")
            }  # fmt: skip
            assert set(column) == inside
            for name, value in column.items():
                assert_within(objects[name]["scores"][metric], value, case["tolerance"], label=f"{name} {metric}")
    check_texts(case, output)


@pytest.mark.parametrize("case", golden_cases("vos-core", "mosev2"))
def test_mosev2(case: Any, tmp_path: Path, written: Run, vos_eval: Run) -> None:
    output = tmp_path / "out"
    vos_eval(
        "mosev2", "--meta", FOLDER / case["meta"], "--ann", written(case, "truth"), "--pred", written(case, "prediction"),
        output=output,
    )  # fmt: skip
    want = expected(case)
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics.pop("total_time") >= 0
    assert set(metrics) == set(want["objects"])
    for name, columns in want["objects"].items():
        for key, value in columns.items():
            got = metrics[name][key]
            assert (got is None) == (value is None), (name, key)
            if value is not None:
                assert_within(got, value, case["tolerance"], label=f"{name} {key}")
    lines = dict(line.split(": ") for line in (output / "scores.txt").read_text().splitlines())
    assert {key: lines[key] for key in want["scores"]} == want["scores"]
    check_texts(case, output)
