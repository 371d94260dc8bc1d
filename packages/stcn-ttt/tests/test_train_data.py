"""Samples of offline training: which frames, which objects, how they look; the schedule of the gaps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stcn_ttt.prepare import MEAN, STD
from stcn_ttt.train import static_data
from stcn_ttt.train.stages import CHAINS, STAGES, YOUTUBE_STEP, SkipSchedule, skip_schedule
from stcn_ttt.train.static_data import StaticTriplets, thin_plate_warp
from stcn_ttt.train.video_data import Annotated, VideoTriplets, annotated_clips, collate, draw_triplet, read_subset
from vos_core.data.static import list_images
from vos_core.errors import ConfigError, LayoutError, MaskError
from vos_core.io.masks import write_mask
from vos_core.training.batches import BatchPlan, Mixture, batch_stream
from vos_core.types import Clip

SIZE = 48


def test_published_values():
    assert [(s.batch, s.iterations, s.milestones) for s in STAGES.values()] == [
        (8, 300_000, (150_000,)),
        (4, 500_000, (400_000,)),
        (4, 300_000, (250_000,)),
        (4, 150_000, (125_000,)),
    ]
    assert [s.min_crop for s in STAGES.values()] == [0.36, 0.25, 0.36, 0.36]
    assert [s.single_object for s in STAGES.values()] == [True, False, False, False]
    assert CHAINS == {"s0": (0,), "s01": (0, 1), "s03": (0, 3), "s012": (0, 1, 2)}


@pytest.mark.parametrize(("stage", "last"), [(1, 80), (2, 90), (3, 90)])
def test_gaps_grow_by_epoch_and_shrink_at_the_end(stage, last):
    schedule = skip_schedule(STAGES[stage], iterations=991, batches_per_epoch=10)  # 100 epochs: the last one is not whole
    changes = {epoch: schedule(epoch) for epoch in range(100) if epoch == 0 or schedule(epoch) != schedule(epoch - 1)}
    assert changes == {0: 5, 10: 10, 20: 15, 30: 20, 40: 25, last: 5}
    by_five = SkipSchedule(schedule.turns, divide=YOUTUBE_STEP)
    assert [by_five(epoch) for epoch in changes] == [1, 2, 3, 4, 5, 1]


@given(st.integers(3, 120), st.integers(1, 25), st.integers(0, 999))
@settings(max_examples=300, deadline=None)
def test_triplets_are_in_order_and_near(frames, skip, seed):
    picked = draw_triplet(np.random.default_rng(seed), frames, skip)
    assert len(picked) == 3
    assert all(0 <= index < frames for index in picked)
    steps = np.diff(picked)
    assert (steps >= 0).all() or (steps <= 0).all()
    assert np.abs(steps).max() <= min(frames, skip) + 1


def test_triplets_go_both_ways_and_reach_all_frames():
    rng = np.random.default_rng(0)
    drawn = [draw_triplet(rng, 12, 3) for _ in range(2000)]
    assert 0.4 < np.mean([a < c for a, _, c in drawn]) < 0.6
    assert {index for picked in drawn for index in picked} == set(range(12))
    assert max(abs(a - b) for a, b, _ in drawn) == 4


def film(folder, *, frames=4, ids=(3, 200), size=(60, 80), square=26):
    folder.mkdir(parents=True)
    pictures, masks = [], []
    for t in range(frames):
        labels = np.zeros(size, np.uint8)
        for place, object_id in enumerate(ids):
            labels[15 : 15 + square, 6 + 34 * place + t : 6 + 34 * place + t + square] = object_id
        pictures.append(folder / f"{t:05d}.png")
        Image.fromarray(np.repeat((labels > 0)[..., None] * np.uint8(255), 3, 2)).save(pictures[-1])
        masks.append(folder / f"m{t:05d}.png")
        write_mask(masks[-1], labels)
    return Annotated(folder.name, tuple(pictures), tuple(masks))


def overlap(images, shown):
    """Return the IoU of bright pixels and the mask in `(B, T, 3, H, W)` and `(B, T, H, W)`."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    white = ((images * std + mean) > 0.75).all(2)
    return ((white & shown).sum() / (white | shown).sum().clamp(min=1)).item()


def test_video_samples(tmp_path):
    data = VideoTriplets([film(tmp_path / "two"), film(tmp_path / "one", ids=(7,))], skip=lambda epoch: 1, size=SIZE)
    assert len(data) == 2
    slots, overlaps = {0: set(), 1: set()}, []
    for index in (0, 1):
        for seed in range(12):
            one = data.draw(index, epoch=0, rng=np.random.default_rng(seed))
            assert one.images.shape == (1, 3, 3, SIZE, SIZE)
            assert one.classes.shape == (1, 3, SIZE, SIZE)
            assert one.classes.dtype == torch.int64
            shown = set(one.classes[0, 0].unique().tolist()) - {0}
            assert shown == ({1, 2} if one.selector[0, 1] else {1})
            assert one.selector[0, 0] == 1
            slots[index].add(one.selector[0, 1].item())
            assert set(one.classes.unique().tolist()) <= {0, 1, 2}
            if len(shown) == 2 or index == 1:
                overlaps.append(overlap(one.images, one.classes > 0))
            again = data.draw(index, epoch=0, rng=np.random.default_rng(seed))
            assert torch.equal(one.images, again.images)
            assert torch.equal(one.classes, again.classes)
    assert slots[1] == {0}
    assert 1 in slots[0]
    assert np.median(overlaps) > 0.85
    assert np.mean(overlaps) > 0.8
    both = collate([data.draw(i, epoch=0, rng=np.random.default_rng(0)) for i in (0, 1)])
    assert both.images.shape[0] == both.classes.shape[0] == both.selector.shape[0] == 2
    own, other = both.masks(1)[:, 0], both.masks(1)[:, 1]
    assert torch.equal(own, (both.classes[:, 1] == 1).float())
    assert torch.equal(other, (both.classes[:, 1] == 2).float())


def test_the_gap_follows_the_epoch(tmp_path):
    asked = []
    data = VideoTriplets([film(tmp_path / "a")], skip=lambda epoch: asked.append(epoch) or 1, size=SIZE)
    data.draw(0, epoch=7, rng=np.random.default_rng(0))
    assert set(asked) == {7}


def test_a_clip_without_objects_is_all_background(tmp_path):
    one = VideoTriplets([film(tmp_path / "none", ids=())], skip=lambda epoch: 1, size=SIZE).draw(
        0, epoch=0, rng=np.random.default_rng(0)
    )
    assert not one.classes.any()
    assert one.selector.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("areas", "kept"),
    [
        ((901, 5000, 5000), True),
        ((900, 399, 10), True),
        ((900, 400, 0), False),
        ((101, 0, 399), True),
        ((100, 50, 50), False),
        ((0, 50, 50), False),
    ],
)
def test_which_small_objects_bl30k_keeps(areas, kept):
    labels = [np.zeros(8000, np.uint8) for _ in areas]
    for one, area in zip(labels, areas, strict=True):
        one[:area] = 4
        one[area : area + 1500] = 9
        one[-5:] = 255
    frames = [one.reshape(80, 100) for one in labels]
    assert (4 in VideoTriplets([], skip=lambda epoch: 1, ignore_small=True)._candidates(frames)) == kept
    assert VideoTriplets([], skip=lambda epoch: 1)._candidates(frames) == ([4, 9] if areas[0] else [9]), "void is no object"


def test_clips_with_fewer_than_three_masks_are_left_out(tmp_path):
    made = [film(tmp_path / name, frames=n) for name, n in (("a", 3), ("b", 2), ("c", 5))]
    clips = [Clip(c.name, frames=c.frames, annotations={f.stem: m for f, m in zip(c.frames, c.masks, strict=True)}) for c in made]
    assert [c.name for c in annotated_clips(clips, where="here")] == ["a", "c"]
    assert [c.name for c in annotated_clips(clips, subset=frozenset({"c", "b"}), where="here")] == ["c"]
    with pytest.raises(LayoutError, match="here"):
        annotated_clips(clips, subset=frozenset({"b"}), where="here")


def test_subset_files(tmp_path):
    (tmp_path / "a.txt").write_text("bear\n\n cat \n")
    (tmp_path / "b.json").write_text(json.dumps({"train": ["bear"], "n": 3}))
    (tmp_path / "c.json").write_text(json.dumps(["cat"]))
    assert read_subset(tmp_path / "a.txt") == {"bear", "cat"}
    assert read_subset(tmp_path / "b.json", "train") == {"bear"}
    assert read_subset(tmp_path / "c.json", "train") == {"cat"}
    (tmp_path / "d.json").write_text("[")
    for name, key in (("b.json", "val"), ("b.json", "n"), ("d.json", None), ("none.txt", None)):
        with pytest.raises(ConfigError, match=name):
            read_subset(tmp_path / name, key)


@pytest.fixture
def static_root(tmp_path):
    root = tmp_path / "static"
    labels = np.zeros((70, 90), np.uint8)
    labels[18:54, 22:66] = 255
    for folder in ("fss/cup", "DUTS-TR", "BIG_small"):
        (root / folder).mkdir(parents=True)
        Image.fromarray(np.repeat(labels[..., None], 3, 2)).save(root / folder / "x.jpg", quality=98)
        Image.fromarray(labels).save(root / folder / "x.png")
    return root


def test_static_samples(static_root):
    data = StaticTriplets(list_images(static_root), size=SIZE)
    assert len(data) == 1 + 1 + 5, "BIG counts five times"
    overlaps = []
    for seed in range(15):
        one = data.draw(seed % 7, epoch=0, rng=np.random.default_rng(seed))
        assert one.images.shape == (1, 3, 3, SIZE, SIZE)
        assert one.selector.tolist() == [[1]]
        assert set(one.classes.unique().tolist()) <= {0, 1}
        assert not torch.equal(one.images[0, 0], one.images[0, 1]), "every view is warped by itself"
        if one.classes.any():
            overlaps.append(overlap(one.images, one.classes > 0))
        assert torch.equal(one.images, data.draw(seed % 7, epoch=3, rng=np.random.default_rng(seed)).images)
    assert len(overlaps) > 10
    assert np.median(overlaps) > 0.85


def test_static_crops_are_padded_with_the_mean_colour():
    data = StaticTriplets.__new__(StaticTriplets)
    data.size = SIZE
    image, mask = data._cropped(
        Image.new("RGB", (SIZE + 9, 20), (255, 255, 255)), Image.new("L", (SIZE + 9, 20), 255), np.random.default_rng(0)
    )
    assert image.size == mask.size == (SIZE, SIZE)
    rgb, shown = np.asarray(image), np.asarray(mask) > 0
    assert shown.sum() == SIZE * 20
    assert (rgb[shown] == 255).all()
    assert (rgb[~shown] == (124, 116, 104)).all()


def test_static_faults_are_named(static_root, tmp_path):
    with pytest.raises(LayoutError, match="static_root"):
        StaticTriplets([], size=SIZE)
    Image.fromarray(np.zeros((35, 45), np.uint8)).save(static_root / "DUTS-TR" / "x.png")
    data = StaticTriplets([item for item in list_images(static_root) if item.subset == "DUTS-TR"], size=SIZE)
    with pytest.raises(MaskError, match=r"DUTS-TR/x\.png is 45x35"):
        data.draw(0, epoch=0, rng=np.random.default_rng(0))


def test_label_maps_give_one_object(tmp_path):
    for folder in ("JPEGImages", "Annotations"):
        (tmp_path / folder / "COCO").mkdir(parents=True)
    labels = np.zeros((60, 60), np.uint8)
    labels[5:55, 5:20], labels[5:55, 40:55], labels[:, 28:32] = 1, 2, 255
    Image.fromarray(np.repeat(labels[..., None] * np.uint8(100), 3, 2)).save(tmp_path / "JPEGImages" / "COCO" / "a.jpg")
    write_mask(tmp_path / "Annotations" / "COCO" / "a.png", labels)
    (item,) = list_images(tmp_path)
    columns = set()
    for seed in range(8):
        mask = np.asarray(StaticTriplets._mask(item, (60, 60), np.random.default_rng(seed)))
        assert (mask > 0).sum() == 50 * 15
        columns.add(int((mask > 0).any(0).argmax()))
    assert columns == {5, 40}


def test_thin_plate_warp_bends_image_and_mask_alike(monkeypatch):
    mask = np.zeros((64, 80), np.uint8)
    mask[16:48, 20:60] = 255
    rgb = np.repeat(mask[..., None], 3, 2)
    bent, bent_mask = thin_plate_warp(rgb, mask, np.random.default_rng(1))
    assert bent.shape == rgb.shape
    assert 30 < (bent_mask != mask).sum() < 0.4 * mask.size
    a, b = bent[..., 0] > 127, bent_mask > 127
    assert (a & b).sum() / (a | b).sum() > 0.97
    assert (thin_plate_warp(rgb, mask, np.random.default_rng(1))[0] == bent).all()
    assert (thin_plate_warp(rgb, mask, np.random.default_rng(2))[0] != bent).any()
    monkeypatch.setattr(static_data, "WARP_SIGMA", 0.0)
    same, same_mask = thin_plate_warp(rgb, mask, np.random.default_rng(1))
    np.testing.assert_allclose(same, rgb, atol=1)
    np.testing.assert_array_equal(same_mask, mask)


def test_the_warp_moves_the_drawn_points_to_where_they_should_be():
    # A picture of coordinates shows where every pixel came from; the spline passes through its 12 points.
    rng = np.random.default_rng(5)
    rows, columns = rng.permutation(100)[:12] / 100, rng.permutation(100)[:12] / 100
    moved = np.stack((columns, rows), 1) + rng.normal(scale=0.02, size=(12, 2))
    ramp = np.repeat((np.arange(100) * 2)[None], 100, 0).astype(np.uint8)
    bent, _ = thin_plate_warp(np.repeat(ramp[..., None], 3, 2), np.zeros((100, 100), np.uint8), np.random.default_rng(5))
    inside = ((moved > 0.1) & (moved < 0.9)).all(1) & (columns > 0.1) & (columns < 0.9)
    assert inside.sum() >= 5
    for (x, y), column in zip(moved[inside], columns[inside], strict=True):
        assert bent[round(y * 100), round(x * 100), 0] / 2 == pytest.approx(column * 100, abs=1.5)


@pytest.mark.slow
def test_batches_of_a_worker_are_those_of_this_process(tmp_path, static_root):
    data = Mixture(
        [(VideoTriplets([film(tmp_path / "a"), film(tmp_path / "b")], skip=SkipSchedule((1, 2, 3, 4, 5)), size=SIZE), 2)]
    )
    found = []
    for workers in (0, 1):
        stream = batch_stream(data, BatchPlan(len(data), 2, seed=3), workers=workers, collate=collate)
        found.append([next(stream) for _ in range(3)])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.classes, b.classes)
