"""RCMS alone and on a memory loop that is not ours."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sam2_rcms.rcms import RCMS, mask_quality
from vos_core.errors import UsageError

GOOD, GONE = torch.tensor([4.0]), torch.tensor([-4.0])
CLEAR, EMPTY = torch.full((1, 8, 8), 9.0), torch.full((1, 8, 8), -9.0)
SURE, UNSURE = torch.tensor([0.2, 0.99]), torch.tensor([0.3, 0.1])


def test_quality_by_hand():
    logits = torch.tensor([[[2.0, -1.0], [0.0, 1.0]]])
    mean = (1 / (1 + math.exp(-2)) + 1 / (1 + math.exp(-1))) / 2
    expected = 1 / (1 + math.exp(-0.5)) * 0.7 * mean
    found = mask_quality(torch.tensor([[0.5]]), torch.tensor([[0.1, 0.7, 0.3]]), logits.unsqueeze(0))
    assert found.item() == pytest.approx(expected, rel=1e-6)
    assert mask_quality(GOOD, SURE[None], EMPTY[None]).isnan().all()


def test_newest_good_frames_are_kept_once():
    rcms = RCMS(promote=2, threshold=0.5)
    for frame, ious in enumerate([SURE, SURE, UNSURE, SURE, SURE, UNSURE], start=1):
        assert rcms.observe(frame, GOOD, ious, CLEAR) == []
    assert rcms.observe(7, GONE, SURE, CLEAR) == [5, 4]
    assert rcms.disappeared_at == 7
    assert rcms.observe(8, GOOD, SURE, CLEAR) == []
    assert rcms.observe(9, GONE, SURE, CLEAR) == [], "only the first disappearance counts"
    rcms.reset()
    assert rcms.observe(10, GOOD, SURE, CLEAR) == []
    assert rcms.observe(11, GONE, SURE, CLEAR) == [10]


def test_frame_0_empty_masks_and_n_0_are_never_kept():
    rcms = RCMS(promote=5, threshold=-math.inf)
    rcms.observe(0, GOOD, SURE, CLEAR)
    rcms.observe(1, GOOD, SURE, EMPTY)
    rcms.observe(2, GOOD, SURE, CLEAR)
    assert rcms.observe(3, GONE, SURE, EMPTY) == [2], "an empty mask has quality NaN, which passes no threshold"
    off = RCMS(promote=0)
    off.observe(1, GOOD, SURE, CLEAR)
    assert off.observe(2, GONE, SURE, CLEAR) == []
    assert off.disappeared_at == 2


def test_objects_are_observed_one_by_one():
    two = torch.ones(2, 1), torch.full((2, 3), 0.9), CLEAR.expand(2, 1, 8, 8)
    for score, ious in ((two[0], two[1]), (two[0][:1], two[1]), (two[0], two[1][:1])):
        with pytest.raises(UsageError, match=r"those of one object.*an RCMS for each object"):
            RCMS().observe(1, score, ious, two[2])
    rcms = RCMS(promote=1)
    assert [rcms.observe(1, *(part[:1] for part in two)), rcms.observe(2, -1.0, 0.9, CLEAR)] == [[], [1]]


def test_reverse_looks_ahead_and_forgotten_frames_do_not_count():
    rcms = RCMS(promote=2, threshold=0.5)
    for frame in (9, 8, 7, 6):
        rcms.observe(frame, GOOD, SURE, CLEAR, reverse=True)
    rcms.forget([7])
    assert rcms.observe(5, GONE, SURE, CLEAR, reverse=True) == [6, 8]


@settings(max_examples=50, deadline=None)
@given(
    qualities=st.lists(st.floats(0, 1) | st.just(math.nan), min_size=1, max_size=30),
    promote=st.integers(0, 5),
    threshold=st.floats(0, 1),
)
def test_bounded_equals_unbounded_and_the_rule(qualities, promote, threshold):
    """The walk of the original, written out: back from the frame of disappearance, never to frame 0."""
    whole, bounded = (RCMS(promote=promote, threshold=threshold, bounded=flag) for flag in (False, True))
    gone = len(qualities)
    for frame, quality in enumerate(qualities):
        for rcms in (whole, bounded):
            assert rcms.note(frame, score=1.0, quality=quality) == []
        assert len(bounded._quality) <= promote
    expected, back = [], 1
    while back < gone and len(expected) < promote:
        if qualities[gone - back] > threshold:
            expected.append(gone - back)
        back += 1
    assert whole.note(gone, score=-1.0, quality=0.0) == bounded.note(gone, score=-1.0, quality=0.0) == expected


class ForeignTracker:
    """A memory loop of another kind: matches a patch to a template bank, keeps the last three templates."""

    def __init__(self, first):
        self.forever, self.recent = {0: first}, {}

    def track(self, index, frame):
        bank = torch.stack([*self.forever.values(), *self.recent.values()])
        likeness = torch.exp(-(bank - frame).square().mean((1, 2))).max()
        self.recent[index] = frame
        for old in [key for key in self.recent if key < index - 3]:
            del self.recent[old]
        return likeness * 8 - 4, likeness.reshape(1), torch.where(frame > 0.5, 5.0, -5.0)

    def keep_for_good(self, index):
        self.forever[index] = self.recent.pop(index)


def test_two_calls_put_it_on_a_foreign_tracker():
    torch.manual_seed(0)
    looks = [torch.zeros(8, 8) + 0.6 + 0.05 * step for step in range(6)]  # the object changes its look slowly,
    video = [*looks, *[torch.full((8, 8), -3.0)] * 6, looks[-1]]  # hides longer than the tracker remembers, and comes back

    def run(rcms):
        tracker = ForeignTracker(video[0] - 0.45)  # the first template fits the last look badly
        scores = []
        for index, frame in enumerate(video[1:], start=1):
            score, ious, logits = tracker.track(index, frame)
            if rcms is not None:
                for good in rcms.observe(index, score, ious, logits):
                    tracker.keep_for_good(good)
            scores.append(float(score))
        return scores, tracker

    plain, _ = run(None)
    with_rcms, tracker = run(RCMS(promote=2, threshold=0.3))
    assert plain[:6] == with_rcms[:6]
    assert sorted(tracker.forever) == [0, 4, 5], "the last two good looks stay"
    assert with_rcms[-1] > plain[-1], "so that the object is found again better"
