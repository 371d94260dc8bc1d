from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vos_core.errors import MaskError
from vos_core.io.masks import write_mask
from vos_core.report.failures import failures, lost_objects, swapped_objects, worst_frames


def test_worst_frames_are_sorted_and_perfect_objects_left_out(runs):
    found = worst_frames(runs.poor)
    assert [item.severity for item in found] == sorted((item.severity for item in found), reverse=True)
    assert len(found) == 4
    assert found[0].severity == 1.0
    assert worst_frames(runs.good) == []
    assert len(worst_frames(runs.poor, count=2)) == 2


def test_lost_objects_need_three_frames_in_a_row(runs):
    found = lost_objects(runs.poor)
    assert [(item.clip, item.object_id, item.frame) for item in found] == [
        (runs.names[1], "2", "00001"), (runs.names[0], "1", "00002"), (runs.names[0], "2", "00002"),
    ]  # fmt: skip
    assert found[0].detail == "4 frames, to the end"
    row = {**runs.poor.scores["per_object"][0], "J_frames": [0.0, 0.0, 0.0, 0.9]}
    regained = lost_objects(replace(runs.poor, scores={"per_object": [row]}))
    assert regained[0].detail == "3 frames, until 00004"


def test_swapped_objects_name_the_other_id_and_the_first_frame(runs):
    found = swapped_objects(runs.clips[0], Path(runs.poor.output) / runs.names[0])
    assert [(item.object_id, item.frame) for item in found] == [("1", "00002"), ("2", "00002")]
    assert found[0].detail == "taken for object 2 in 4 of 6 frames"
    assert swapped_objects(runs.clips[0], Path(runs.good.output) / runs.names[0]) == []
    assert swapped_objects(runs.clips[1], Path(runs.poor.output) / runs.names[1]) == []


def test_void_and_tiny_objects_are_no_swap(tmp_path, runs):
    truth, found = np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8)
    truth[:10, :10], truth[20:23, 20:23], truth[30:, 30:] = 1, 2, 255
    found[20:23, 20:23] = 1
    write_mask(tmp_path / "truth.png", truth)
    write_mask(tmp_path / "run" / "00000.png", found)
    clip = replace(runs.clips[0], annotations={"00000": tmp_path / "truth.png"})
    assert swapped_objects(clip, tmp_path / "run") == []


def test_torn_masks_raise_alone_and_are_passed_over_in_the_list(tmp_path, runs):
    folder = tmp_path / runs.names[0]
    folder.mkdir()
    (folder / "00001.png").write_bytes(b"torn")
    with pytest.raises(MaskError, match=r"00001\.png"):
        swapped_objects(runs.clips[0], folder)
    record = replace(runs.poor, output=str(tmp_path))
    assert {item.kind for item in failures(record, runs.clips)} == {"lost", "worst"}


def test_failures_come_in_the_order_swapped_lost_worst_with_a_limit_for_each(runs):
    kinds = [item.kind for item in failures(runs.poor, runs.clips, count=2)]
    assert kinds == ["swapped"] * 2 + ["lost"] * 2 + ["worst"] * 2
    assert failures(runs.good, runs.clips) == []
