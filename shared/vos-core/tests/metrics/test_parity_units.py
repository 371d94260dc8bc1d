from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from vos_core.metrics.adaptive import adaptive_boundary_measure
from vos_core.metrics.boundary import DEFAULT_THRESHOLD, boundary_measure, boundary_pixels
from vos_core.metrics.contour import footprint_cells, radius_of
from vos_core.metrics.region import region_similarity
from vos_core.metrics.summary import summarise
from vos_core.testing import GOLDENS, assert_within, golden_cases

pytestmark = pytest.mark.parity
FOLDER = GOLDENS / "vos-core"


def expected(case: Any) -> Any:
    value = json.loads((FOLDER / case["expected"]["file"]).read_text())
    for key in case["expected"]["path"]:
        value = value[key]
    return value


def measure(spec: dict[str, Any], truth: Any, prediction: Any, void: Any) -> float:
    used = void if spec.get("void") else None
    if spec["fn"] == "J":
        return region_similarity(truth, prediction, used)
    if spec["fn"] == "J_mosev2":
        return region_similarity(truth, prediction, smoothed=True)
    if spec["fn"] == "F":
        return boundary_measure(truth, prediction, spec["threshold"], used)
    assert spec["fn"] == "F_mosev2"
    plain, adaptive = adaptive_boundary_measure(truth, prediction, threshold=spec["threshold"], mode=spec["mode"])
    return {"plain": plain, "adaptive": adaptive}[spec["part"]]


@pytest.mark.parametrize("case", golden_cases("vos-core", "mask_pairs"))
def test_mask_pairs(case: Any) -> None:
    rows = {row["case"]: row for row in expected(case)}
    counts = {
        "radius": lambda row, truth, prediction: radius_of(DEFAULT_THRESHOLD, row["H"], row["W"]),
        "boundary_pixels_truth": lambda row, truth, prediction: boundary_pixels(truth),
        "boundary_pixels_prediction": lambda row, truth, prediction: boundary_pixels(prediction),
        "area_truth": lambda row, truth, prediction: int(truth.sum()),
    }
    with np.load(FOLDER / case["file"]) as arrays:
        for k in case["cases"]:
            row = rows[k]
            axis, order = case["packing"]["axis"], case["packing"]["bitorder"]
            masks = {
                name: np.unpackbits(arrays[pattern.format(case=k)], axis=axis, bitorder=order)[
                    :, : row[case["packing"]["width_key"]]
                ]
                for name, pattern in case["arrays"].items()
            }
            for key, spec in case["measures"].items():
                value = measure(spec, masks["truth"], masks["prediction"], masks["void"])
                assert_within(value, row[key], case["tolerance"], label=f"{k} {key}")
            for key, meaning in case["counts"].items():
                assert counts[meaning](row, masks["truth"], masks["prediction"]) == row[key], (k, key)


@pytest.mark.parametrize("case", golden_cases("vos-core", "disk"))
def test_disk_footprints(case: Any) -> None:
    rows = expected(case)
    for radius, key in zip(case["radii"], case["keys"], strict=True):
        cells = footprint_cells(radius)
        ends = [[int(np.flatnonzero(row)[0]), int(np.flatnonzero(row)[-1])] if row.any() else None for row in cells]
        assert list(cells.shape) == rows[key]["shape"]
        assert int(cells.sum()) == rows[key]["sum"]
        assert ends == rows[key]["row_first_last"]


@pytest.mark.parametrize("case", golden_cases("vos-core", "statistics"))
def test_statistics(case: Any) -> None:
    rows = expected(case)
    assert [row["n"] for row in rows] == case["lengths"]
    for row in rows:
        values = [np.nan if value is None else value for value in row["values"]]
        legacy = summarise(values, legacy_decay=True)
        assert_within(legacy, [row["M"], row["R"], row["D"]], case["tolerance"], label=f"n = {row['n']}")
        ours = summarise(values)
        assert_within(ours[:2], [row["M"], row["R"]], case["tolerance"], label=f"n = {row['n']}")
        if row["n"] < case["legacy_decay_from"]:
            assert_within(ours.decay, row["D"], case["tolerance"], label=f"n = {row['n']}")
        else:
            assert np.isfinite(ours.decay)
