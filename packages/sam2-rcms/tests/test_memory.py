"""Which frames are read: rules by hand, and that a bounded memory loses nothing that forward tracking reads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sam2_rcms.memory import ObjectMemory, ReadRules, Record, plan_reading
from sam2_rcms.rcms import RCMS


def record():
    return Record(torch.zeros(1, 1, 1), torch.zeros(1), 1.0, torch.ones(1), 0.9, torch.zeros(1))


def store(*frames):
    return {frame: record() for frame in frames}


def spatial(reading):
    return [(code, frame) for code, frame, _ in reading.spatial]


def pointers(reading):
    return [(distance, frame) for distance, frame, _ in reading.pointers]


def test_window_of_six_and_sixteen_pointers():
    reading = plan_reading(20, store(0), store(*range(1, 20)), ReadRules(frames=100))
    assert spatial(reading) == [(6, 0), (5, 14), (4, 15), (3, 16), (2, 17), (1, 18), (0, 19)]
    assert pointers(reading) == [(20, 0), *((d, 20 - d) for d in range(1, 16))]
    assert reading.span == 15


def test_short_video_divides_by_its_length_and_one_frame_by_one():
    assert plan_reading(2, store(0), store(1), ReadRules(frames=4)).span == 3
    assert plan_reading(0, store(0), {}, ReadRules(frames=1)).span == 1


def test_stride_keeps_the_previous_frame():
    reading = plan_reading(10, store(0), store(*range(1, 10)), ReadRules(stride=3, frames=100))
    assert spatial(reading) == [(6, 0), (2, 3), (1, 6), (0, 9)]


def test_fewer_memories_keep_the_code_of_prompted_frames():
    reading = plan_reading(20, store(0), store(*range(1, 20)), ReadRules(spatial=3, frames=100))
    assert spatial(reading) == [(6, 0), (1, 18), (0, 19)]


def test_promoted_frames_leave_a_hole_and_unselected_cond_frames_fill_the_window():
    reading = plan_reading(8, store(0, 6), store(*[f for f in range(1, 8) if f != 6]), ReadRules(frames=100))
    assert spatial(reading) == [(6, 0), (6, 6), (5, 2), (4, 3), (3, 4), (2, 5), (0, 7)]
    limited = plan_reading(5, store(0, 1, 4), store(2, 3), ReadRules(max_cond=2, frames=100))
    assert spatial(limited) == [(6, 4), (6, 1), (4, 0), (2, 2), (1, 3)]


@pytest.mark.parametrize(("frame", "expected"), [(5, [4, 6]), (0, [1, 4]), (9, [8, 6])])
def test_closest_conditioning_frames(frame, expected):
    reading = plan_reading(frame, store(1, 4, 6, 8), {}, ReadRules(max_cond=2, frames=100))
    assert sorted(index for code, index in spatial(reading) if code == 6) == sorted(expected)


def test_reverse_mirrors_and_reads_no_pointer_from_the_side_not_reached():
    reading = plan_reading(5, store(2, 9), store(6, 7, 8), ReadRules(frames=10), reverse=True)
    assert spatial(reading)[2:] == [(2, 8), (1, 7), (0, 6)]
    assert pointers(reading) == [(4, 9), (1, 6), (2, 7), (3, 8)]
    both = plan_reading(5, store(2, 9), {}, ReadRules(frames=10), reverse=True, past_only=False)
    assert pointers(both) == [(-3, 2), (4, 9)]


@settings(max_examples=60, deadline=None)
@given(
    stride=st.integers(1, 4),
    maskmem=st.integers(1, 7),
    prompts=st.sets(st.integers(0, 39), min_size=1, max_size=4),
    gone=st.integers(1, 60),
    qualities=st.lists(st.floats(0, 1), min_size=40, max_size=40),
)
def test_a_bounded_memory_reads_the_same(stride, maskmem, prompts, gone, qualities):
    rules = ReadRules(spatial=maskmem, stride=stride, frames=40)
    whole, window = (ObjectMemory(RCMS(promote=3, threshold=0.5, bounded=flag)) for flag in (False, True))
    largest = 0
    for frame in range(min(prompts), 40):
        plans = [plan_reading(frame, memory.cond, memory.tracked, rules) for memory in (whole, window)]
        assert spatial(plans[0]) == spatial(plans[1])
        assert pointers(plans[0]) == pointers(plans[1])
        assert all(item.memory is not None for _, _, item in plans[1].spatial), "a memory that is read must still be there"
        for memory in (whole, window):
            if frame in prompts:
                memory.cond[frame] = record()
            else:
                memory.tracked[frame] = record()
                score = -1.0 if frame == gone else 1.0
                memory.promote(memory.rcms.note(frame, score=score, quality=qualities[frame]))
        window.shrink(frame, rules)
        again = plan_reading(frame, window.cond, window.tracked, rules)  # for a correction
        assert spatial(again) == spatial(plan_reading(frame, whole.cond, whole.tracked, rules))
        assert all(item.memory is not None for _, _, item in again.spatial)
        assert list(whole.cond) == list(window.cond)
        largest = max(largest, len(window.tracked))
    assert largest <= max(16, (maskmem - 1) * stride + 1) + 3
