import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vos_core.bank import BankUpdate, RestrictedBank


def slow_rule(shares_by_update: list[list[float]], capacity: int, *, lazy: bool) -> tuple[list[list[int]], list[int]]:
    """The rule of spec section 3.4 written out with arrays, one row per frame that ever was."""
    total = len(shares_by_update) + 1
    mean = np.full(total, np.nan)
    seen = np.zeros(total, int)
    seen[0] = 1
    held, after, drops = [0], [], []
    for frame, shares in enumerate(shares_by_update, start=1):
        t = len(held)
        drop = -1
        if not lazy or t + 1 > capacity:
            r = np.asarray(shares[:t]) / np.sum(shares[:t])
            fresh = np.full(total, np.nan)
            for k, share in zip(held, r, strict=True):
                fresh[k] = share if np.isnan(mean[k]) else 0.2 * mean[k] + 0.8 * share
            mean = fresh
            seen[[*held, frame]] += 1
            c = seen[held].astype(float)
            c[0] = t
            score = mean[held] + 1.5 * np.sqrt(np.log(c.sum()) / (c + 8))
            if t + 1 > capacity:
                drop = 1 + int(np.argmin(score[1:]))
        held.append(frame)
        if drop >= 0:
            drops.append(held.pop(drop))
        after.append(list(held))
    return after, drops


@given(
    st.lists(st.lists(st.floats(0.01, 1), min_size=6, max_size=6), min_size=1, max_size=20),
    st.integers(2, 5),
    st.booleans(),
)
def test_decisions_equal_the_rule_written_out(shares: list[list[float]], latter: int, lazy: bool) -> None:
    bank = RestrictedBank(former=1, latter=latter, lazy=lazy)
    bank.add(0)
    after, drops = [], []
    for frame, row in enumerate(shares, start=1):
        update = bank.add(frame, row[: len(bank.frames)])
        after.append(list(bank.frames))
        if update.dropped is not None:
            drops.append(update.dropped)
    assert (after, drops) == slow_rule(shares, 1 + latter, lazy=lazy)


def test_the_first_and_the_newest_frame_never_leave_and_the_size_is_kept() -> None:
    rng = np.random.default_rng(3)
    bank = RestrictedBank(former=1, latter=3)
    for frame in range(40):
        bank.add(frame, rng.dirichlet(np.ones(len(bank.frames))) if frame else ())
        assert bank.frames[0] == 0
        assert bank.frames[-1] == frame
        assert len(bank.frames) == min(frame + 1, 4)


def test_a_frame_that_nothing_looks_at_leaves_first() -> None:
    bank = RestrictedBank(former=1, latter=3)
    for frame, relevance in enumerate(((), (1,), (1, 1), (1, 1, 0))):
        bank.add(frame, relevance)
    update = bank.add(4, (1, 1, 0, 1))
    assert (update.place, update.dropped) == (2, 2)
    assert update.shares == pytest.approx((1 / 3, 1 / 3, 0, 1 / 3))
    assert bank.frames == (0, 1, 3, 4)


def test_the_bonus_is_that_of_the_equation() -> None:
    bank = RestrictedBank(former=1, latter=3)
    bank.add(0)
    bank.add(1, (1.0,))
    update = bank.add(2, (3.0, 1.0))
    # Frame 1 was counted as it came and again now; the first frame's count is the number of frames held.
    spread = math.log(2 + 2)
    assert update.scores == pytest.approx(
        (0.2 * 1 + 0.8 * 0.75 + 1.5 * math.sqrt(spread / 10), 0.25 + 1.5 * math.sqrt(spread / 10))
    )


def test_the_oldest_rule_needs_no_relevance() -> None:
    bank = RestrictedBank(former=1, latter=2, rule="oldest")
    dropped = [bank.add(frame).dropped for frame in range(6)]
    assert dropped == [None, None, None, 1, 2, 3]
    assert bank.frames == (0, 4, 5)


def test_a_bank_without_bound_keeps_all_and_asks_for_nothing() -> None:
    bank = RestrictedBank(latter=None)
    for frame in range(30):
        assert not bank.wants_relevance
        assert bank.add(frame) == BankUpdate(frame)
    assert bank.frames == tuple(range(30))


def test_lazy_statistics_begin_with_the_first_overflow() -> None:
    bank = RestrictedBank(former=1, latter=2, lazy=True)
    wanted = []
    for frame in range(5):
        wanted.append(bank.wants_relevance)
        bank.add(frame, [1.0] * len(bank.frames))
    assert wanted == [False, False, False, True, True]


def test_pinned_frames_stay_while_others_can_go() -> None:
    bank = RestrictedBank(former=1, latter=2)
    for frame, relevance in enumerate(((), (1,), (1, 1))):
        bank.add(frame, relevance)
    assert bank.add(3, (1, 0, 1), pinned=(1,)).dropped == 2
    assert bank.add(4, (1, 0, 1), pinned=(1, 3)).dropped == 1, "all are pinned: the rule decides"


def test_no_foreground_tells_no_frame_from_another() -> None:
    bank = RestrictedBank(former=1, latter=1)
    bank.add(0)
    assert bank.add(1, (0.0,)).shares == (1.0,)
    assert bank.add(2, (0.0, 0.0)).shares == (0.5, 0.5)


@pytest.mark.parametrize("relevance", [(), (1.0, 2.0), (math.nan,), (math.inf,)])
def test_relevance_that_does_not_fit_is_refused(relevance: tuple[float, ...]) -> None:
    bank = RestrictedBank()
    bank.add(0)
    with pytest.raises(ValueError, match="one finite number for each of 1 frames"):
        bank.add(1, relevance)


def test_a_frame_cannot_be_put_in_twice_and_a_cleared_bank_is_new() -> None:
    bank = RestrictedBank(former=1, latter=1)
    bank.add(7)
    with pytest.raises(ValueError, match="already"):
        bank.add(7, (1.0,))
    bank.clear()
    assert bank == RestrictedBank(former=1, latter=1)
    with pytest.raises(ValueError, match="cannot hold"):
        RestrictedBank(former=1, latter=0)
