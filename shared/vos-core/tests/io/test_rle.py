from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vos_core.errors import MaskError
from vos_core.io import rle
from vos_core.io.sav_json import read_rle_json
from vos_core.testing import GOLDENS, SHARED, assert_within, golden_cases

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20))


def golden(case: dict[str, Any], path: list[str]) -> Any:
    value = json.loads((GOLDENS / "vos-core" / case["file"]).read_text())
    for key in path:
        value = value[key]
    return value


def check_row(row: dict[str, Any], mask: np.ndarray) -> None:
    assert rle.encode(mask) == {"size": row["size"], "counts": row["counts"]}
    assert rle.area(row) == row["area"]
    assert rle.bbox(row) == row["bbox"]
    assert hashlib.sha256(mask.astype(np.uint8).tobytes()).hexdigest() == row["sha256_rowmajor"]
    if row.get("uncompressed") is not None:
        assert rle.encode(mask, compress=False)["counts"] == row["uncompressed"]
        np.testing.assert_array_equal(rle.decode({"size": row["size"], "counts": row["uncompressed"]}), mask)


@pytest.mark.parity
@pytest.mark.parametrize("case", golden_cases("vos-core", "rle_video"))
def test_video_codes(case: dict[str, Any]) -> None:
    source = case["source"]
    clip = read_rle_json((SHARED if source["base"] == "shared" else GOLDENS / "vos-core") / source["path"])
    rows = golden(case, case["expected"]["path"])
    assert len(clip.frames) == case["video_frames"]
    assert len(clip.ids) == case["objects"]
    assert {row["frame"] for row in rows} == set(case["frames"])
    for key, value in case["meta"].items():
        assert clip.meta[key] == value
    for row in rows:
        code = clip.masks[row["frame"]][row["object"]]
        assert code is not None
        assert list(code["size"]) == row["size"]
        check_row(row, rle.decode(code))


@pytest.mark.parity
@pytest.mark.parametrize("case", golden_cases("vos-core", "rle_synthetic"))
def test_synthetic_codes(case: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in golden(case, case["expected"]["path"])}
    packing = case["packing"]
    for name in case["names"]:
        row = rows[name]
        height, width = row["size"]
        if name in case["drawn"]:
            drawn = case["drawn"][name]["disk"]
            y, x = np.mgrid[:height, :width]
            mask = (y - drawn["row"]) ** 2 + (x - drawn["col"]) ** 2 <= drawn["radius"] ** 2
        else:
            packed = np.frombuffer(bytes.fromhex(row[packing["key"]]), np.uint8).reshape(height, -1)
            mask = np.unpackbits(packed, axis=packing["axis"], count=width, bitorder=packing["bitorder"]).astype(bool)
        check_row(row, mask)
        np.testing.assert_array_equal(rle.decode(row), mask)


@pytest.mark.parity
@pytest.mark.parametrize("case", golden_cases("vos-core", "rle_operations"))
def test_operations(case: dict[str, Any]) -> None:
    rows = golden(case, case["entries"])
    for operation in case["operations"]:
        expected = golden(case, [operation["expected"]])
        codes = rows[: operation["first"]]
        if operation["op"] == "iou_matrix":
            assert_within(rle.iou_matrix(codes, codes), expected, case["tolerance"])
        else:
            found = {"union": rle.union, "intersection": rle.intersection}[operation["op"]](codes)
            assert found["counts"] == expected


@given(MASKS)
def test_round_trip(mask: np.ndarray) -> None:
    code = rle.encode(mask)
    np.testing.assert_array_equal(rle.decode(code), mask)
    np.testing.assert_array_equal(rle.decode(rle.encode(mask, compress=False)), mask)
    assert rle.area(code) == mask.sum()
    y, x = np.nonzero(mask)
    box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1] if len(x) else [0, 0, 0, 0]
    found = rle.bbox(code)
    assert (found[0], found[2]) == (box[0], box[2])
    # A run over a column's end makes the format's box span the full height.
    crosses = mask.shape[1] > 1 and bool((mask[-1, :-1] & mask[0, 1:]).any())
    assert (found[1], found[3]) == ((0, mask.shape[0]) if crosses else (box[1], box[3]))


@given(st.lists(st.integers(0, 2**40), max_size=30))
def test_strings_of_any_counts(counts: list[int]) -> None:
    text = rle.to_string(counts)
    assert rle.from_string(text).tolist() == counts
    assert text == slow_string(counts)


def slow_string(counts: list[int]) -> str:
    out = ""
    for k, value in enumerate(counts):
        x, more = value - counts[k - 2] if k > 2 else value, True
        while more:
            c, x = x & 31, x >> 5
            more = x != -1 if c & 16 else x != 0
            out += chr((c | 32 if more else c) + 48)
    return out


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 12), st.integers(1, 12))
def test_set_operations_are_those_of_the_masks(seed: int, count: int, height: int, width: int) -> None:
    masks = np.random.default_rng(seed).random((count, height, width)) < 0.6
    codes = [rle.encode(mask) for mask in masks]
    assert rle.union(codes) == rle.encode(masks.any(axis=0))
    assert rle.intersection(codes) == rle.encode(masks.all(axis=0))
    found = rle.iou_matrix(codes, codes)
    for i, a in enumerate(masks):
        for j, b in enumerate(masks):
            either = (a | b).sum()
            assert found[i, j] == ((a & b).sum() / either if either else 0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": [2, 2], "counts": "o1"}, {"size": [2, 2], "counts": "0\n"}, {"size": [2, 2], "counts": "P"},
        {"size": [2, 2], "counts": "é"}, {"size": [2, 2], "counts": "o" * 20 + "1"}, {"size": [2, 2], "counts": [5, -1]},
        {"size": [2], "counts": "4"}, {"size": [2, 2]}, {"counts": "4"}, {"size": [2, 2], "counts": 4}, "4",
        {"size": [2, "x"], "counts": "4"}, {"size": [2, 1.5], "counts": [3]}, {"size": [2, 2], "counts": ["a"]},
        {"size": [2, 2], "counts": [1.5, 3.5]}, {"size": [2, 2], "counts": [[4]]}, {"size": [2, 2], "counts": [[1], [1, 2]]},
        {"size": "22", "counts": "4"}, {"size": [2, 2], "counts": [float("nan")]},
    ],
)  # fmt: skip
def test_malformed_codes(wrong: Any) -> None:
    with pytest.raises(MaskError):
        rle.decode(wrong)


def test_other_misuse() -> None:
    with pytest.raises(MaskError, match="sizes"):
        rle.iou_matrix([rle.encode(np.ones((2, 2)))], [rle.encode(np.ones((2, 3)))])
    with pytest.raises(MaskError, match="shape"):
        rle.encode(np.ones(4))


def test_empty_runs_and_whole_floats_are_read() -> None:
    code = {"size": [2.0, 3.0], "counts": [1, 2, 0, 1, 2.0, 0]}
    np.testing.assert_array_equal(rle.decode(code), [[0, 1, 0], [1, 1, 0]])
    assert rle.bbox(code) == [0.0, 0.0, 2.0, 2.0]
    assert rle.union([code]) == rle.encode(rle.decode(code))
    assert rle.iou_matrix([code], [rle.encode(rle.decode(code))]).tolist() == [[1.0]]


def test_nothing_to_compare() -> None:
    assert rle.iou_matrix([rle.encode([[1]])], []).shape == (1, 0)
    assert rle.iou_matrix([], []).shape == (0, 0)
