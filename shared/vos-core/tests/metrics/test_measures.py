"""Packed J and F against slow definitions written with SciPy and loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from vos_core.errors import ScoreError
from vos_core.metrics import packed
from vos_core.metrics.adaptive import absences, adaptive_boundary_measure, segment_mean
from vos_core.metrics.boundary import boundary_measure, boundary_pixels
from vos_core.metrics.contour import disk, footprint_cells
from vos_core.metrics.matching import PairTable, assign, pairwise
from vos_core.metrics.packed import LabelFrame, pack, union
from vos_core.metrics.region import region_similarity
from vos_core.metrics.summary import summarise


def slow_boundary(mask: Any) -> Any:
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    window = np.stack([padded[:-1, :-1], padded[1:, :-1], padded[:-1, 1:], padded[1:, 1:]])
    return window.max(axis=0) != window.min(axis=0)


def slow_dilate(mask: Any, cells: Any) -> Any:
    centre = len(cells) // 2
    offsets = np.argwhere(cells) - centre if cells.any() else np.array([[-centre, -centre]])
    height, width = mask.shape
    out = np.zeros_like(mask)
    for dy, dx in offsets:
        for y, x in np.argwhere(mask):
            if 0 <= y - dy < height and 0 <= x - dx < width:
                out[y - dy, x - dx] = True
    return out


def slow_f(truth: Any, prediction: Any, radius: float) -> float:
    g, p = slow_boundary(truth), slow_boundary(prediction)
    if not g.any() or not p.any():
        return float(g.any() == p.any())
    near_g, near_p = (ndimage.distance_transform_edt(~mask) <= radius for mask in (g, p))
    precision, recall = (p & near_g).sum() / float(p.sum()), (g & near_p).sum() / float(g.sum())
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


@st.composite
def masks(draw: st.DrawFn, count: int) -> list[Any]:
    height, width = draw(st.integers(1, 40)), draw(st.sampled_from([1, 2, 31, 63, 64, 65, 66, 127, 128, 130, 200]))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        kind = draw(st.sampled_from(["box", "noise", "dots", "empty", "full"]))
        mask = np.zeros((height, width), bool)
        if kind == "box":
            y, x = np.sort(rng.integers(0, height + 1, 2)), np.sort(rng.integers(0, width + 1, 2))
            mask[y[0] : y[1], x[0] : x[1]] = True
        elif kind == "noise":
            mask = rng.random((height, width)) < 0.5
        elif kind == "dots":
            mask[rng.integers(0, height, 3), rng.integers(0, width, 3)] = True
        elif kind == "full":
            mask[:] = True
        found.append(mask)
    return found


@settings(max_examples=150, deadline=None)
@given(masks(3), st.sampled_from([0.008, 0.02, 1, 2, 3, 5, 9]))
def test_j_and_f_equal_their_definitions(drawn: list[Any], threshold: float) -> None:
    truth, prediction, void = drawn
    radius = threshold if threshold >= 1 else math.ceil(threshold * np.linalg.norm(truth.shape))
    kept_truth, kept_prediction = truth & ~void, prediction & ~void
    either = (kept_truth | kept_prediction).sum()
    j = (kept_truth & kept_prediction).sum() / either if either else 1.0
    assert region_similarity(truth, prediction, void) == j
    assert boundary_measure(truth, prediction, threshold) == slow_f(truth, prediction, radius)
    assert boundary_measure(truth, prediction, threshold, void) == slow_f(kept_truth, kept_prediction, radius)
    assert boundary_pixels(truth) == slow_boundary(truth).sum()
    both, total = (truth & prediction).sum(), (truth | prediction).sum()
    assert region_similarity(truth, prediction, smoothed=True) == ((both + 1) / (total + 1) if total else 1.0)


@settings(max_examples=60, deadline=None)
@given(masks(2), st.sampled_from(["area", "diagonal"]))
def test_adaptive_f_equals_its_definition(drawn: list[Any], mode: Any) -> None:
    truth, prediction = drawn
    bound = 0.008 * np.linalg.norm(truth.shape)
    size = math.sqrt(truth.sum())
    if mode == "diagonal" and truth.any():
        rows, columns = np.nonzero(truth)
        size = math.hypot(np.ptp(rows) + 1, np.ptp(columns) + 1)
    wanted = math.ceil(0.1 * size) if truth.any() else math.ceil(bound)
    radii = (math.ceil(bound), wanted) if wanted < bound else (bound, bound)
    g, p = slow_boundary(truth), slow_boundary(prediction)
    expected = []
    for radius in radii:
        if not g.any() or not p.any():
            expected.append(float(g.any() == p.any()))
            continue
        cells = footprint_cells(radius)
        precision = (p & slow_dilate(g, cells)).sum() / float(p.sum())
        recall = (g & slow_dilate(p, cells)).sum() / float(g.sum())
        expected.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    assert adaptive_boundary_measure(truth, prediction, mode=mode) == tuple(expected)


@settings(max_examples=40, deadline=None)
@given(masks(5), st.sampled_from([1, 4, 8, 70]))
def test_pairwise_equals_pair_by_pair(drawn: list[Any], radius: int) -> None:
    known = [pack(mask) for mask in drawn]
    j, f = pairwise(known[:3], known[3:], disk(radius))
    for p in range(3):
        for o in range(2):
            assert j[p, o] == region_similarity(drawn[3 + o], drawn[p])
            assert f[p, o] == slow_f(drawn[3 + o], drawn[p], radius)


@settings(max_examples=60, deadline=None)
@given(masks(1), st.integers(0, 2**32 - 1), st.sampled_from([np.uint8, np.uint16]))
def test_label_frames_pack_every_id(drawn: list[Any], seed: int, kind: Any) -> None:
    ids = np.array([1, 2, 7, 40, 255 if kind is np.uint8 else 60000], kind)
    labels = np.where(drawn[0], np.random.default_rng(seed).choice(ids, drawn[0].shape), 0).astype(kind)
    frame = LabelFrame(labels)
    assert frame.ids() == tuple(int(k) for k in np.unique(labels) if k)
    assert frame.highest == labels.max()
    for k in (*ids, 3):
        assert frame.mask(int(k)).area == (labels == k).sum()
    assert LabelFrame(labels, binary=True).mask(1).area == (labels > 0).sum()
    assert union([frame.mask(int(k)) for k in ids]).area == (labels > 0).sum()
    rows, columns = np.nonzero(labels)
    tight = (rows.min(), columns.min(), rows.max(), columns.max()) if rows.size else None
    assert frame.foreground().box() == tight


def test_counting_by_table_gives_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.random.default_rng(0).random((9, 130)) < 0.3
    monkeypatch.setattr(packed, "popcounts", packed._popcounts_by_table)
    assert pack(mask).area == mask.sum()


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ScoreError, match=r"\(2, 2\), \(2, 3\)"):
        region_similarity(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ScoreError, match="two-dimensional"):
        boundary_measure(np.zeros(4), np.zeros(4))


def test_decay_is_right_beyond_256_frames_and_wrong_on_request() -> None:
    values = np.linspace(1, 0, 1000)
    edges = [0, 250, 500, 749, 999]
    right = values[edges[0] : edges[1] + 1].mean() - values[edges[3] : edges[4] + 1].mean()
    assert summarise(values).decay == pytest.approx(right, abs=1e-12)
    assert math.isnan(summarise(values, legacy_decay=True).decay)
    assert summarise(values[:255]) == summarise(values[:255], legacy_decay=True)


def test_nan_counts_as_not_recalled_and_no_frames_give_nan() -> None:
    found = summarise([1.0, np.nan, 0.5])
    assert (found.mean, found.recall) == (0.75, 1 / 3)
    assert all(math.isnan(value) for value in summarise([]))
    assert math.isnan(summarise([np.nan]).mean)


def test_recall_bound_of_trackeval_excludes_the_next_number_after_a_half() -> None:
    assert summarise([0.5 + 2**-53 * 2]).recall == 1.0
    assert summarise([0.5 + 2**-52], recall_above=0.5 + 2**-52).recall == 0.0


def test_segments_of_absence_and_return() -> None:
    present = [bool(int(c)) for c in "0011001110"]
    assert absences(present) == ([(4, 6), (9, 10)], [(2, 4), (6, 9)])
    assert absences([]) == ([], [])
    assert segment_mean([1.0, 0.0, 0.5, 0.5], [(0, 2), (2, 4)]) == 0.5
    assert segment_mean([1.0], []) is None


def test_assignment_has_the_largest_sum_and_absent_proposals_are_empty() -> None:
    gain = np.random.default_rng(3).random((7, 4))
    rows, columns = linear_sum_assignment(-gain)
    assert sum(gain[pair] for pair in assign(gain)) == pytest.approx(gain[rows, columns].sum())
    with pytest.raises(ScoreError, match="not numbers"):
        assign(np.array([[np.nan]]))
    table = PairTable([1])
    labels = np.zeros((8, 70), np.uint8)
    labels[2:5, 60:68] = 1
    table.add(labels, labels, proposals=[1])
    table.add(labels, np.zeros_like(labels), proposals=[])
    j, f = table.stacked([1, 2])
    assert j[:, 0].tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert f[:, 0].tolist() == [[1.0, 0.0], [0.0, 0.0]]
