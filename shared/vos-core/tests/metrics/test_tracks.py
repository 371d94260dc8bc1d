from __future__ import annotations

import numpy as np
import pytest

from vos_core.errors import ScoreError
from vos_core.metrics.tracks import label_confusion, mean_iou, mean_iou_of, pck


def test_pck_counts_joints_within_the_threshold() -> None:
    truth = np.array([[[0, 0], [100, 0], [0, 50], [np.nan, 0]]], float)
    guess = np.array([[[0, 10], [100, 10.5], [np.nan, 50], [0, 0]]], float)
    assert pck(truth, guess, threshold=0.1) == 1 / 3
    assert pck(truth, guess, threshold=0.2) == 2 / 3
    assert pck(truth, guess, threshold=0.1, sizes=[200]) == 2 / 3


def test_pck_refuses_what_it_cannot_score() -> None:
    with pytest.raises(ScoreError, match="shapes"):
        pck(np.zeros((2, 3, 2)), np.zeros((2, 4, 2)))
    with pytest.raises(ScoreError, match="no joint"):
        pck(np.full((1, 2, 2), np.nan), np.zeros((1, 2, 2)))
    with pytest.raises(ScoreError, match="one size"):
        pck(np.zeros((2, 3, 2)), np.zeros((2, 3, 2)), sizes=[1.0])


def test_mean_iou_is_counted_over_all_frames() -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 5, (3, 6, 7)), rng.integers(0, 5, (3, 6, 7))
    truth[0, 0] = 255
    kept = truth != 255
    slow = []
    for k in range(6):
        union = (((truth == k) | (guess == k)) & kept).sum()
        if union:
            slow.append(((truth == k) & (guess == k) & kept).sum() / union)
    assert mean_iou(zip(truth, guess, strict=True), classes=6) == pytest.approx(np.mean(slow), abs=1e-15)


def test_mean_iou_refuses_what_it_cannot_score() -> None:
    with pytest.raises(ScoreError, match="frame 0: label 7"):
        mean_iou([([[7]], [[0]])], classes=5)
    with pytest.raises(ScoreError, match="one shape"):
        mean_iou([(np.zeros((2, 2), int), np.zeros((2, 3), int))], classes=5)
    with pytest.raises(ScoreError, match="no pixel"):
        mean_iou([], classes=5)


def test_tables_of_clips_add_up_to_the_table_of_all() -> None:
    rng = np.random.default_rng(0)
    clips = [[(rng.integers(0, 3, (6, 7)), rng.integers(0, 3, (6, 7))) for _ in range(2)] for _ in range(3)]
    tables = [label_confusion(pairs, classes=4) for pairs in clips]
    counted = np.zeros((4, 4), np.int64)
    for true, guess in (pair for pairs in clips for pair in pairs):
        np.add.at(counted, (true, guess), 1)
    np.testing.assert_array_equal(sum(tables), counted)
    assert mean_iou_of(sum(tables)) == mean_iou([pair for pairs in clips for pair in pairs], classes=4)
    with pytest.raises(ScoreError, match="no pixel"):
        mean_iou_of(np.zeros((4, 4), np.int64))
