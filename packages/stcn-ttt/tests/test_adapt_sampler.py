"""Which sequences are drawn, which are accepted, and what tensors they become."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stcn_ttt.adapt.config import TttConfig
from stcn_ttt.adapt.pseudo import PseudoMasks
from stcn_ttt.adapt.sampler import LENIENT_AFTER, MAX_OBJECTS, TRIES, Choice, LabelSets, accept, draw_distinct_frames
from stcn_ttt.adapt.sequences import SequenceMaker, label_tensors, stack
from stcn_ttt.prepare import MEAN, STD
from vos_core.types import Frame

CPU = torch.device("cpu")
SIZE = (48, 64)


class Film:
    """Frames that show their masks: white objects on black."""

    level = 255

    def __init__(self, masks):
        self.masks, self.names = masks, [f"{t:05d}" for t in range(len(masks))]

    def __len__(self):
        return len(self.masks)

    def read(self, index):
        return Frame(index, self.names[index], np.repeat((self.masks[index] > 0)[..., None] * np.uint8(self.level), 3, 2))

    def maker(self, annotated=(0,), seed=0, **config):
        packed = PseudoMasks()
        for index, labels in enumerate(self.masks):
            packed[index] = labels
        settings = TttConfig(**{"ttt_resolution": SIZE[0], **config})
        return SequenceMaker(self, packed, annotated, config=settings, rng=np.random.RandomState(seed), device=CPU)


def boxes(*ids, shift=0, size=SIZE):
    labels = np.zeros(size, np.uint8)
    for place, object_id in enumerate(ids):
        row, column = divmod(place, 4)
        labels[4 + 20 * row : 16 + 20 * row, 3 + shift + 15 * column : 14 + shift + 15 * column] = object_id
    return labels


@given(st.integers(2, 30), st.integers(0, 28), st.integers(1, 6), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_sequences_go_forward_by_bounded_jumps(length, first, count, max_jump, seed):
    first = min(first, length - 2)
    frames = draw_distinct_frames(np.random.RandomState(seed), length, first=first, count=count, max_jump=max_jump)
    steps = np.diff(frames)
    assert frames[0] == first
    assert len(frames) == count
    assert ((steps >= 0) & (steps <= max_jump)).all()
    assert frames[-1] < length
    if count == 2:
        assert frames[1] > first


SHOWN = frozenset({0, 1, 2})


@pytest.mark.parametrize(
    ("stored", "first", "last", "targets", "tries", "closed"),
    [
        (SHOWN, SHOWN, SHOWN, [1, 2], 1, False),  # every target in the last frame
        (SHOWN, SHOWN, SHOWN | {3}, [1, 2], 1, True),  # likewise, but the numbers differ: closed
        (SHOWN, SHOWN, frozenset({0, 1, 3}), [1, 2], 1, False),  # a target is lost, the three numbers are equal
        (SHOWN, frozenset({0, 1}), frozenset({0, 3}), [1, 2], TRIES, True),  # the first frame lost one: never accepted
        (SHOWN, SHOWN, frozenset({0, 1}), [1, 2], LENIENT_AFTER + 2, True),  # accepted once more than 50 tries failed
        (SHOWN, frozenset({0, 1}), frozenset({0, 1}), [1, 2], TRIES, True),  # A = Z, but all tries failed: closed
    ],
)
def test_acceptance(stored, first, last, targets, tries, closed):
    drawn = []

    def draw():
        drawn.append(Choice([0, 1, len(drawn)], targets, seed=len(drawn)))
        return drawn[-1]

    choice = accept(draw, lambda _: LabelSets(stored, first, last))
    assert len(drawn) == tries
    assert choice == dataclasses.replace(drawn[-1], closed=closed)


def test_the_first_accepted_draw_is_taken():
    drawn = iter(Choice([0, 1, t], [1]) for t in range(9))
    choice = accept(
        lambda: next(drawn), lambda c: LabelSets(SHOWN, SHOWN, frozenset({0, 1}) if c.frames[-1] == 4 else frozenset({0}))
    )
    assert (choice.frames, choice.closed) == ([0, 1, 4], True)


def test_a_closed_sequence_ends_with_its_first_frame():
    film = Film([boxes(1, 2)] + [boxes(shift=t) for t in range(5)])
    sequence = film.maker().draw(length=3, max_jump=2)
    torch.testing.assert_close(sequence.images[:, 2], sequence.images[:, 0], rtol=0, atol=0)
    assert not torch.equal(sequence.images[:, 1], sequence.images[:, 0])
    kept = film.maker(ttt_loss="tt-ent").draw(length=3, max_jump=2)
    assert not torch.equal(kept.images[:, 2], kept.images[:, 0]), "entropy takes the first draw as it is"


@pytest.mark.parametrize(("frames", "annotated"), [(2, (0,)), (2, (0, 1)), (4, (0, 3)), (3, (1,))])
@pytest.mark.parametrize("loss", ["tt-mcc", "tt-ent", "tt-ae"])
@pytest.mark.parametrize("length", [2, 3])
def test_short_clips_and_late_annotations_end(frames, annotated, loss, length):
    film = Film([boxes(1, shift=t) for t in range(frames)])
    maker = film.maker(annotated, ttt_loss=loss)
    for _ in range(5):
        assert maker.draw(length=length, max_jump=10).images.shape == (1, length, 3, *SIZE)


def test_one_frame_is_enough_for_autoencoding():
    assert Film([boxes(1)]).maker(ttt_loss="tt-ae").draw(length=3, max_jump=10).images.shape[1] == 1
    film = Film([boxes(1), boxes(), boxes(2)])
    starts = {film.maker((0, 2), seed=s, ttt_loss="tt-ae").draw(length=1, max_jump=1).masks.sum().item() for s in range(9)}
    assert starts == {12 * 11}
    pictures = {film.maker((0, 2), seed=s, ttt_loss="tt-ae").draw(length=1, max_jump=1).images.sum().item() for s in range(9)}
    assert len(pictures) == 1, "both show one box of one size"
    film.masks[2] = boxes(2, 3)
    sizes = {film.maker((0, 2), seed=s, ttt_loss="tt-ae").draw(length=1, max_jump=1).selector.sum().item() for s in range(9)}
    assert sizes == {1, 2}, "an annotation of the last frame counts, too"


def test_several_annotated_frames_give_pairs():
    film = Film([boxes(5)] + [boxes(5, 9, 200, 30, shift=t) for t in range(4)])
    maker, seen = film.maker((0, 2)), set()
    for _ in range(20):
        one = maker.draw(length=3, max_jump=2)
        assert one.masks.shape[1] == 2
        if one.selector[0, 1]:
            torch.testing.assert_close(one.others, one.masks.flip(1))  # only the other target counts
            assert set(one.target.unique().tolist()) == {0, 1, 2}
            seen.add(tuple(int(column) for column in one.masks[0].any(1).int().argmax(-1)))
        else:
            assert not one.masks[0, 1].any()
            torch.testing.assert_close(one.others[0, 1], one.masks[0, 0])
    assert len(seen) > 3, "both targets are drawn from all labels"


def test_more_than_six_objects_give_a_random_six():
    film = Film([boxes(*range(1, 9), shift=t) for t in range(3)])
    maker, orders = film.maker(), set()
    for _ in range(5):
        one = maker.draw(length=2, max_jump=2)
        assert one.masks.shape[1] == MAX_OBJECTS
        assert one.selector.all()
        labels = torch.from_numpy(film.masks[0])
        left_out = (labels > 0) & (one.target[0] == 0)
        assert len(labels[left_out].unique()) == 2, "two objects count as background"
        assert (one.others[0] * left_out).sum() == 6 * left_out.sum(), "and as others of everyone"
        orders.add(tuple(int(labels[one.target[0] == slot + 1].unique()) for slot in range(6)))
    assert len(orders) > 1
    assert any(list(order) != sorted(order) for order in orders), "classes follow the order drawn"


def test_label_tensors_of_ids_that_are_not_dense():
    labels = boxes(3, 200)
    masks, others, selector, target = label_tensors(labels, [3, 200], several=False, compat=False, device=CPU)
    np.testing.assert_array_equal(masks[0].numpy(), [labels == 3, labels == 200])
    torch.testing.assert_close(others, masks.flip(1))
    assert selector.tolist() == [[1, 1]]
    np.testing.assert_array_equal(target[0].numpy(), (labels == 3) + 2 * (labels == 200))
    # The reference compares classes 1 and 2 with the ids: nothing is found, while both stay in the target.
    masks, others, _, same = label_tensors(labels, [3, 200], several=False, compat=True, device=CPU)
    assert not masks.any()
    assert not others.any()
    assert torch.equal(same, target)
    # With ids 2 and 5 class 2 finds the wrong object, class 1 none.
    labels = boxes(2, 5)
    masks, others, _, _ = label_tensors(labels, [2, 5], several=False, compat=True, device=CPU)
    np.testing.assert_array_equal(masks[0].numpy(), [labels == 1, labels == 2])
    torch.testing.assert_close(others, masks.flip(1))
    dense = [label_tensors(boxes(1, 2), [1, 2], several=False, compat=compat, device=CPU) for compat in (False, True)]
    for a, b in zip(*dense, strict=True):
        assert torch.equal(a, b)


def test_label_tensors_pad_to_sixteen_and_stack_to_the_widest():
    made = label_tensors(boxes(7, size=(40, 50)), [7], several=False, compat=False, device=CPU)
    assert [tuple(x.shape) for x in made] == [(1, 2, 48, 64), (1, 2, 48, 64), (1, 2), (1, 48, 64)]
    assert made[2].tolist() == [[1, 0]]
    torch.testing.assert_close(made[1][0, 1], made[0][0, 0])
    film = Film([boxes(1, 2, 3, shift=t) for t in range(3)])
    one, three = Film([boxes(1)] * 3).maker().draw(length=2, max_jump=1), film.maker().draw(length=2, max_jump=1)
    both = stack([one, three])
    assert both.selector.tolist() == [[1, 0, 0], [1, 1, 1]]
    assert both.images.shape == (2, 2, 3, *SIZE)
    assert torch.equal(both.masks[1], three.masks[0])
    assert torch.equal(both.others[0, :2], one.others[0])


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"ttt_augmentations": "colour"},
        {"ttt_augmentations": "geometric"},
        {"ttt_augmentations": "colour,geometric"},
        {"ttt_scale": (0.5, 1.0), "ttt_ratio": (0.75, 1.33)},
        {"ttt_scale": (0.5, 1.0), "ttt_augmentations": "geometric"},
        {"ttt_resolution": 32},
    ],
    ids=str,
)
def test_image_and_mask_stay_aligned(config):
    film = Film([boxes(1, 2, shift=3 * t) for t in range(3)])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    looks, maker = set(), film.maker(**config)
    side = config.get("ttt_resolution", SIZE[0])
    for _ in range(6):
        one = maker.draw(length=3, max_jump=1)
        expected = (side, side) if "ttt_scale" in config else (side, -(-int(side * 64 / 48) // 16) * 16)
        assert one.images.shape[-2:] == one.target.shape[-2:] == expected
        white = ((one.images[0, 0] * std + mean) > 0.75).all(0)
        shown = one.target[0] > 0
        assert (white & shown).sum() / (white | shown).sum() > 0.85
        looks.add(round(one.images.sum().item(), 2))
    changes = config.keys() & {"ttt_augmentations", "ttt_scale"}
    assert len(looks) > 3 if changes else len(looks) <= 3
    again = film.maker(**config).draw(length=3, max_jump=1)
    first = film.maker(**config).draw(length=3, max_jump=1)
    assert torch.equal(again.images, first.images)


def test_colour_leaves_masks_alone_and_the_frames_of_a_sequence_share_the_crop():
    film = Film([boxes(1, 2)] * 3)
    film.level = 150  # far from where values are cut
    plain = film.maker().draw(length=3, max_jump=1)
    colour = film.maker(ttt_augmentations="colour").draw(length=3, max_jump=1)
    assert torch.equal(plain.target, colour.target)
    assert not torch.equal(colour.images[0, 0], plain.images[0, 0])
    maker = film.maker(ttt_augmentations="colour")
    several = [maker.draw(length=3, max_jump=1).images[0] for _ in range(5)]
    assert not all(torch.equal(images[1], images[0]) for images in several), "each frame has a jitter of its own"
    crop = film.maker(ttt_scale=(0.3, 0.6)).draw(length=3, max_jump=1)
    assert torch.equal(crop.images[0, 1], crop.images[0, 0])
    warp = film.maker(ttt_augmentations="geometric").draw(length=3, max_jump=1)
    assert not torch.equal(warp.images[0, 1], warp.images[0, 0])
