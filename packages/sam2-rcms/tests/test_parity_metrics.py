"""The MOSEv2 scores of `sam2-rcms score` against the goldens: per frame, per object and as the original writes them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sam2_cases import FOLDER

from sam2_rcms.cli import main
from vos_core.io.masks import write_mask
from vos_core.metrics.adaptive import adaptive_boundary_measure
from vos_core.metrics.contour import footprint_cells
from vos_core.metrics.packed import pack
from vos_core.metrics.region import smoothed_jaccard
from vos_core.testing import golden_cases

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("case", golden_cases("sam2-rcms", "mosev2_metrics"))
def test_scores(case: Any, tmp_path: Any) -> None:
    gold = np.load(FOLDER / case["file"])
    assert case["bound_mode"] in ("area", "diagonal")
    rule = case["tol"]["arrays"]["default"]
    for entry in case["disks"]:
        assert np.array_equal(footprint_cells(entry["radius"]), gold[entry["array"]] > 0)
    meta: dict[str, Any] = {"videos": {}}
    for video in case["videos"]:
        name, length = video["name"], video["length"]
        meta["videos"][name] = {key: video[key] for key in ("length", "height", "width")}
        meta["videos"][name]["objects"] = {str(one): {} for one in video["objects"]}
        truth, predicted = gold[f"{name}_gt"], gold[f"{name}_pred"]
        for t in range(length):
            write_mask(tmp_path / "ann" / name / f"{t:05d}.png", truth[t])
            write_mask(tmp_path / "pred" / name / f"{t:05d}.png", predicted[t])
        for one in video["objects"]:
            columns: dict[str, list[float]] = {"J": [], "F": [], "Fdot": [], "empty": []}
            for t in range(length):
                a, b = truth[t] == one, predicted[t] == one
                plain, adaptive = adaptive_boundary_measure(a, b, threshold=case["bound_th"], mode=case["bound_mode"])
                columns["F"].append(plain)
                columns["Fdot"].append(adaptive)
                columns["J"].append(smoothed_jaccard(pack(a), pack(b)))
                columns["empty"].append(not a.any())
            for key in ("J", "F", "Fdot"):
                np.testing.assert_allclose(columns[key], gold[f"{name}_o{one}_{key}"], atol=rule["atol"], rtol=rule["rtol"])
            assert columns["empty"] == gold[f"{name}_o{one}_empty"].tolist()
    if (case["bound_th"], case["bound_mode"], case["skip_first"], case["skip_last"]) != (0.1, "area", 1, 1):
        return  # the published protocol alone writes these files
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    words = [
        "--meta",
        tmp_path / "meta.json",
        "--ann",
        tmp_path / "ann",
        "--pred",
        tmp_path / "pred",
        "--output",
        tmp_path / "out",
    ]
    done = CliRunner().invoke(main, ["score", *map(str, words), "--debug"])
    assert done.exit_code == 0, done.output
    found, expected = json.loads((tmp_path / "out" / "metrics.json").read_text()), json.loads(str(gold["metrics_json"]))
    for key in case["ignore_json_keys"]:
        found.pop(key, None)
        expected.pop(key, None)
    assert found == expected
    assert (tmp_path / "out" / "scores.txt").read_text() == str(gold["scores_txt"])
