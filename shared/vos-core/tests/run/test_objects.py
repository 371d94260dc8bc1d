from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vos_core.errors import UsageError
from vos_core.run.objects import AdaptiveGroupedSegmenter, GroupedSegmenter, ObjectSlots, fork, group_objects, labels_of
from vos_core.types import Frame, Prompt


def prompt(object_id: int, column: int) -> Prompt:
    mask = np.zeros((8, 40), bool)
    mask[2:6, 4 * column : 4 * column + 3] = True
    return Prompt(object_id=object_id, mask=mask)


def frame(index: int) -> Frame:
    return Frame(index, f"{index:05d}", np.zeros((8, 40, 3), np.uint8))


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 5))
def test_slots_never_overflow_and_never_move(ids: list[int], limit: int) -> None:
    slots = ObjectSlots(limit=limit)
    alive: dict[int, int] = {}
    for object_id in ids:
        if object_id in alive:  # seen again: goes away
            assert slots.remove([object_id]) == {alive.pop(object_id): [object_id]}
        else:
            (alive[object_id],) = slots.add([object_id])
        assert {i: slots.group_of(i) for i in alive} == alive
        assert len(slots) == len(alive)
        assert set(slots.ids) == set(alive)
        assert all(list(alive.values()).count(group) <= limit for group in alive.values())


def test_unknown_id_cannot_be_removed_and_nothing_else_goes() -> None:
    slots = ObjectSlots()
    slots.add([3, 5])
    with pytest.raises(UsageError, match=r"\[9\].*\[3, 5\]"):
        slots.remove([3, 9])
    assert slots.ids == (3, 5)


def test_groups_follow_more_objects_than_slots(recorder) -> None:
    made: list = []

    def make():
        made.append(recorder(slots=2, probabilities=True))
        return made[-1]

    grouped = GroupedSegmenter(make, max_objects=2)
    first = [prompt(11, 0), prompt(3, 1), prompt(400, 2)]
    result = grouped.step(frame(0), first)
    result = grouped.step(frame(1), [prompt(5, 5), prompt(6, 7)])
    assert len(made) == 3
    assert set(result.ids) == {11, 3, 400, 5, 6}
    for given_prompt in (*first, prompt(5, 5), prompt(6, 7)):
        assert (result.labels[given_prompt.mask] == given_prompt.object_id).all()
    assert result.probs.shape == (6, 8, 40)
    np.testing.assert_allclose(result.probs.sum(0), 1, atol=1e-5)
    assert grouped.state_bytes() == 5 * 8 * 40
    assert made[2].calls == [("00001", (6,))]

    grouped.remove([11, 3])  # the first group is empty now and takes the next newcomer
    result = grouped.step(frame(2), [prompt(77, 9)])
    assert set(result.ids) == {400, 5, 6, 77}
    assert made[0].calls[-1] == ("00002", (77,))
    grouped.remove([400, 5, 6, 77])
    assert not grouped.step(frame(3)).labels.any()
    with pytest.raises(UsageError):
        grouped.remove([1])
    grouped.reset()
    assert grouped.state_bytes() == 0
    assert set(grouped.step(frame(0), [prompt(1, 0)]).ids) == {1}
    assert len(made) == 3, "segmenters are kept for the next clip"


def test_adaptive_groups_adapt_each_to_its_objects(recorder) -> None:
    class Adaptive(recorder):
        def adapt(self, frames, prompts):
            self.adapted = {index: [p.object_id for p in given] for index, given in prompts.items()}

    made: list = []

    def make():
        made.append(Adaptive(probabilities=True))
        return made[-1]

    grouped = group_objects(make, max_objects=2, adaptive=True)
    assert isinstance(grouped, AdaptiveGroupedSegmenter)
    grouped.adapt(None, {0: [prompt(1, 0)], 4: [prompt(2, 1), prompt(3, 2)]})
    assert [member.adapted for member in made] == [{0: [1], 4: [2]}, {4: [3]}]
    assert not hasattr(group_objects(make, max_objects=2), "adapt")


def test_labels_hold_original_ids_in_the_smallest_type() -> None:
    probs = np.zeros((3, 1, 3), np.float32)
    probs[[0, 1, 2], 0, [0, 1, 2]] = 1
    assert labels_of(probs, (9, 4)).tolist() == [[0, 9, 4]]
    assert labels_of(probs, (9, 4)).dtype == np.uint8
    assert labels_of(probs, (300, 4)).dtype == np.uint16


class Networked:
    def __init__(self) -> None:
        self.network = torch.nn.Linear(2, 2)
        self.memory: list[torch.Tensor] = []

    def step(self, frame, prompts=()): ...
    def remove(self, ids): ...
    def reset(self):
        self.memory = []

    def state_bytes(self):
        return 0


def test_fork_shares_the_network_and_nothing_else() -> None:
    first = Networked()
    second = fork(first)
    assert second is not None
    assert second.network is first.network
    second.memory.append(torch.zeros(1))
    assert first.memory == []


def test_fork_of_what_cannot_be_copied_is_none() -> None:
    first = Networked()
    first.closure = lambda: first
    assert fork(first) is None
