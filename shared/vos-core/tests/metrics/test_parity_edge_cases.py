from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vos_core.errors import VosError
from vos_core.metrics.davis import DavisSemi, DavisUnsupervised
from vos_core.metrics.evaluate import Evaluation, evaluate_videos
from vos_core.metrics.folder import FolderProtocol
from vos_core.metrics.lvos import LvosProtocol, lvos_jobs
from vos_core.metrics.mosev2 import MoseV2Protocol, mosev2_jobs
from vos_core.metrics.source import VideoJob
from vos_core.metrics.trackeval import TrackEvalProtocol
from vos_core.testing import GOLDENS, assert_within, golden_cases

pytestmark = pytest.mark.parity
FOLDER = GOLDENS / "vos-core"
VIDEO = "video"


def scored(protocol: Any, jobs: list[VideoJob]) -> Evaluation:
    return evaluate_videos(protocol, jobs, processes=1)


def plain(root: Path) -> list[VideoJob]:
    return [VideoJob(VIDEO, root / "truth" / VIDEO, root / "prediction" / VIDEO)]


def lvos(case: Any, root: Path, task: Any) -> Evaluation:
    about = case["lvos"]
    ranges = {key: str(about[key]) for key in ("start", "end", "frame_nums")}
    meta = {"videos": {VIDEO: {"objects": {str(k): {"frame_range": ranges} for k in case["ids"]}}}}
    legacy = about["legacy_unsup"] and task != "semi"
    return scored(LvosProtocol(task, legacy_range=legacy), lvos_jobs(meta, root / "lvos_truth", root / "lvos_prediction"))


def mosev2(case: Any, root: Path) -> Evaluation:
    about = {"length": case["frames"], "height": case["height"], "width": case["width"]}
    meta = {"videos": {VIDEO: {**about, "objects": {str(k): {} for k in case["ids"]}}}}
    return scored(MoseV2Protocol(), mosev2_jobs(meta, root / "truth", root / "prediction"))


RUNS: dict[str, Callable[[Any, Path], Evaluation]] = {
    "davis2017_semi": lambda case, root: scored(DavisSemi(), plain(root)),
    "davis2017_unsup": lambda case, root: scored(DavisUnsupervised(), plain(root)),
    "vos_benchmark": lambda case, root: scored(FolderProtocol(), plain(root)),
    "vos_benchmark_all_frames": lambda case, root: scored(FolderProtocol(skip_first_and_last=False), plain(root)),
    "lvos_semi": lambda case, root: lvos(case, root, "semi"),
    "lvos_unsup_multiple": lambda case, root: lvos(case, root, "unsup_multiple"),
    "lvos_unsup_single": lambda case, root: lvos(case, root, "unsup_single"),
    "mosev2": mosev2,
    "trackeval_unsup": lambda case, root: scored(TrackEvalProtocol(), plain(root)),
}


def rows(evaluation: Evaluation, by: str) -> dict[str, tuple[Any, Any]]:
    return {getattr(item, by): (item, summary) for item, summary in evaluation.rows()}


def check(protocol: str, want: Any, evaluation: Evaluation, case: Any) -> None:
    def same(got: Any, value: Any, label: str) -> None:
        assert_within(np.asarray(got, float), np.asarray(value, float), case["tolerance"], label=f"{protocol} {label}")

    if protocol.startswith("davis2017"):
        found = rows(evaluation, "row")
        assert set(found) == set(want["objects"])
        for key, columns in want["objects"].items():
            item, summary = found[key]
            for metric in ("J", "F"):
                same(item.values[metric], columns[metric], f"{key} {metric}")
                statistics = [summary[f"{metric}-{name}"] for name in ("Mean", "Recall", "Decay")]
                same(statistics, columns[f"{metric}_MRD"], f"{key} {metric}_MRD")
    elif protocol.startswith("vos_benchmark"):
        found = rows(evaluation, "object_id")
        assert set(found) == set(want["objects"])
        for key, columns in want["objects"].items():
            for metric, value in columns.items():
                same(100 * found[key][1][metric], value, f"{key} {metric}")
    elif protocol.startswith("lvos"):
        found = rows(evaluation, "row")
        for metric, column in want.items():
            assert set(found) == set(column)
            for key, value in column.items():
                same(found[key][1][metric], value, f"{key} {metric}")
    elif protocol == "mosev2":
        found = rows(evaluation, "object_id")
        assert set(found) == set(want["objects"])
        for key, columns in want["objects"].items():
            item, summary = found[key]
            for name, value in columns.items():
                if name.endswith("_frames"):
                    same(item.values[name.removesuffix("_frames")], value, f"{key} {name}")
                else:
                    same(summary[name], math.nan if value is None else value, f"{key} {name}")
    else:
        assert protocol == "trackeval_unsup"
        for name, value in want.items():
            got = (
                len(evaluation.object_scores)
                if name == "num_gt_tracks"
                else evaluation.scores[f"{name}-Mean" if name == "J&F" else name]
            )
            same(got, value, name)


@pytest.mark.parametrize("case", golden_cases("vos-core", "edge_case"))
def test_edge_case(case: Any, tmp_path: Path, write_masks: Callable[..., None]) -> None:
    want = json.loads((FOLDER / case["expected"]["file"]).read_text())
    for key in case["expected"]["path"]:
        want = want[key]
    with np.load(FOLDER / case["file"]) as arrays:
        for side in ("truth", "prediction"):
            write_masks(tmp_path / side / VIDEO, arrays[case[side]], **case["frame_names"])
            write_masks(tmp_path / f"lvos_{side}" / VIDEO, arrays[case[side]], **case["lvos"]["frame_names"])
    for protocol, kind in case["protocols"].items():
        if kind == "error":
            with pytest.raises(VosError, match=VIDEO):
                RUNS[protocol](case, tmp_path)
        else:
            assert kind == "value"
            check(protocol, want[protocol], RUNS[protocol](case, tmp_path), case)
