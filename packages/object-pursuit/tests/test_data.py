"""Readers of every layout, what they refuse, prepared images, orders."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from object_pursuit.data.images import ObjectEntry, ObjectFolder, read_object_mask, resize_frame, resize_truth
from object_pursuit.data.objects import dataset_name, open_object, open_objects
from object_pursuit.data.order import crop_box, few_shot_frames, joint_batches, object_stream, remembered_picks, scored_subset
from vos_core.errors import FrameError, LayoutError, MaskError, UsageError
from vos_core.io.masks import write_mask


def picture(path, value=120, size=(24, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


def labels(path, ids=(255,), size=(24, 40), *, binary=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, np.uint8)
    for place, object_id in enumerate(ids):
        mask[4:20, 2 + 10 * place : 10 + 10 * place] = object_id
    write_mask(path, mask, binary=binary)


def ithor(root, names=("cup", "apple"), images=3, size=(24, 40)):
    for name in names:
        for index in range(images):
            picture(root / name / "imgs" / f"{index:02d}.jpg", size=size)
            labels(root / name / "masks" / f"{index:02d}.png", binary=True, size=size)
    return root


def test_ithor(tmp_path):
    found = open_objects("ithor", ithor(tmp_path))
    assert [entry.name for entry in found] == ["apple", "cup"]
    assert found[0].data_dir == str(tmp_path / "apple")
    assert not found[0].crop
    data = ObjectFolder(found[0], size=(16, 32))
    images, masks = data.pair(0)
    assert (images.shape, masks.shape) == ((3, 16, 32), (1, 16, 32))
    assert (images.dtype, masks.dtype) == (torch.float32, torch.float32)
    assert masks.max() == 1
    assert masks.min() == 0
    assert len(masks.unique()) > 2, "grey masks stay soft at borders"
    assert data.name == str(tmp_path / "apple")


def test_davis_with_and_without_lists(tmp_path):
    for name in ("bear", "dog"):
        for index in range(2):
            picture(tmp_path / "JPEGImages/480p" / name / f"{index:05d}.jpg")
            labels(tmp_path / "Annotations/480p" / name / f"{index:05d}.png", binary=True)
    found = open_objects("DAVIS", tmp_path)
    assert [(entry.name, entry.data_dir, entry.crop) for entry in found] == [("bear", "bear", True), ("dog", "dog", True)]
    (tmp_path / "ImageSets/480p").mkdir(parents=True)
    lines = [f"/JPEGImages/480p/dog/{i:05d}.jpg /Annotations/480p/dog/{i:05d}.png\n" for i in range(2)]
    (tmp_path / "ImageSets/480p/val.txt").write_text("".join(lines))
    assert [entry.name for entry in open_objects("davis", tmp_path)] == ["dog"]


def test_co3d(tmp_path):
    for name in ("ball/2", "apple/1"):
        picture(tmp_path / name / "images" / "frame1.jpg")
        labels(tmp_path / name / "masks" / "frame1.png", binary=True)
    found = open_objects("CO3D", tmp_path)
    assert [entry.name for entry in found] == ["apple/1", "ball/2"]
    assert found[1].data_dir == str(tmp_path / "ball/2")
    assert all(entry.crop for entry in found)


@pytest.mark.parametrize("meta", ["own", "shared"])
def test_youtube_takes_videos_with_one_object_and_enough_frames(tmp_path, meta):
    videos = {"long": (32, ("1",)), "short": (31, ("1",)), "two": (32, ("1", "2")), "other": (32, ("5",))}
    for name, (frames, ids) in videos.items():
        for index in range(frames + 1):
            picture(tmp_path / "JPEGImages" / name / f"{index:05d}.jpg", size=(12, 16))
            if index < frames:
                labels(tmp_path / "Annotations" / name / f"{index:05d}.png", (1,), size=(24, 40))
        entry = {"objects": {i: {"category": "x", "frames": [f"{k:05d}" for k in range(frames)]} for i in ids}}
        if meta == "own":
            (tmp_path / "Annotations" / name / "meta.json").write_text(json.dumps(entry))
        videos[name] = entry
    if meta == "shared":
        (tmp_path / "meta.json").write_text(json.dumps({"videos": videos}))
    (found,) = open_objects("VOS", tmp_path)
    assert (found.name, len(found), found.label) == ("long", 32, 1)
    with pytest.raises(MaskError, match="the size of"):
        ObjectFolder(found).pair(0)


def test_masks_a_rounding_off_their_images_are_fitted(tmp_path):
    picture(tmp_path / "imgs/00000.jpg", size=(24, 41))
    labels(tmp_path / "masks/00000.png", (1,), size=(25, 40))
    image, mask = ObjectFolder(open_object(tmp_path / "imgs", tmp_path / "masks"), size=(32, 32)).pair(0)
    assert image.shape == (3, 32, 32)
    assert mask.shape == (1, 32, 32)


def test_custom_folders_of_clips_give_every_id(tmp_path):
    for index in range(3):
        picture(tmp_path / "JPEGImages/judo" / f"{index:05d}.jpg")
        picture(tmp_path / "JPEGImages/solo" / f"{index:05d}.jpg")
    labels(tmp_path / "Annotations/judo/00000.png", (1, 2))
    labels(tmp_path / "Annotations/judo/00002.png", (2,))
    labels(tmp_path / "Annotations/solo/00000.png", (3,))
    found = open_objects("custom", tmp_path)
    assert [(entry.name, len(entry), entry.label) for entry in found] == [("judo_1", 1, 1), ("judo_2", 2, 2), ("solo", 1, 3)]
    assert [entry.name for entry in open_objects("custom", tmp_path, label=2)] == ["judo_2"]
    mask = ObjectFolder(found[1], size=(24, 24)).pair(0)[1]
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert [entry.name for entry in open_objects("custom", ithor(tmp_path / "other"))] == ["apple", "cup"]


def test_names_of_data_sets():
    assert [dataset_name(n) for n in ("ITHOR", "co3d", "VOS", "youtube-vos", "Custom")] == [
        "iThor", "CO3D", "YouTube-VOS", "YouTube-VOS", "custom",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="never had a reader"):
        dataset_name("KITTI")
    with pytest.raises(UsageError, match="iThor, DAVIS"):
        dataset_name("imagenet")


def test_faults_are_named(tmp_path):
    with pytest.raises(LayoutError, match="nowhere does not exist"):
        open_objects("iThor", tmp_path / "nowhere")
    root = ithor(tmp_path / "set")
    (root / "cup/masks/01.png").unlink()
    with pytest.raises(LayoutError, match="masks of frames 01 are missing"):
        open_objects("iThor", root)
    labels(root / "cup/masks/01.png", size=(26, 40), binary=True)
    cup = ObjectFolder(open_objects("iThor", root)[1])
    with pytest.raises(MaskError, match=r"01\.png is 40x26"):
        cup.read([0, 1], draw=0)
    (root / "cup/imgs/02.jpg").write_bytes((root / "cup/imgs/02.jpg").read_bytes()[:300])
    with pytest.raises(FrameError, match=r"02\.jpg is damaged"):
        cup.read([2], draw=0)
    picture(root / "cup/imgs/01.png")
    with pytest.raises(LayoutError, match="two frames are called '01'"):
        open_objects("iThor", root)
    with pytest.raises(LayoutError, match="one mask per image"):
        ObjectEntry("x", "x", (root,), ())
    (tmp_path / "jpg.png").write_text("no picture")
    with pytest.raises(MaskError, match="is not a PNG"):
        read_object_mask(tmp_path / "jpg.png")
    with pytest.raises(MaskError, match="damaged"):
        read_object_mask(root / "cup/imgs/02.jpg")


def test_mask_values(tmp_path):
    labels(tmp_path / "palette.png", (1, 2))
    assert np.unique(read_object_mask(tmp_path / "palette.png", "raw")[0]).tolist() == [0, 1, 2]
    assert np.unique(read_object_mask(tmp_path / "palette.png")[0]).tolist() == [0, 1]
    one, hard = read_object_mask(tmp_path / "palette.png", 2)
    assert hard
    assert one.sum() == 16 * 8
    Image.fromarray(np.array([[0, 90, 255]], np.uint8)).save(tmp_path / "soft.png")
    soft, hard = read_object_mask(tmp_path / "soft.png")
    assert (soft.tolist(), hard) == ([[0, 90, 255]], False)
    Image.fromarray(np.array([[0, 1, 3]], np.uint8)).save(tmp_path / "grey_labels.png")
    assert read_object_mask(tmp_path / "grey_labels.png")[0].tolist() == [[0, 1, 1]]
    Image.fromarray(np.array([[0, 300]], np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(MaskError, match="16 bits"):
        read_object_mask(tmp_path / "deep.png")
    entry = ObjectEntry("a", "a", (tmp_path / "i.png",), (tmp_path / "palette.png",), label="raw")
    picture(tmp_path / "i.png")
    assert ObjectFolder(entry, size=(24, 40)).pair(0)[1].max() == pytest.approx(2 / 255)


def test_crops_depend_on_seed_draw_place_and_index_alone(tmp_path):
    root = tmp_path / "a"
    rgb = np.repeat((np.arange(90) * 2)[None, :, None], 30, 0).repeat(3, 2).astype(np.uint8)
    for index in range(3):
        (root / "imgs").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).save(root / "imgs" / f"{index}.png")
        labels(root / "masks" / f"{index}.png", size=(30, 90), binary=True)
    entry = open_object(root / "imgs", root / "masks", crop=True)
    one, other = ObjectFolder(entry, size=(8, 8), seed=1), ObjectFolder(entry, size=(8, 8), seed=1, cache_bytes=0)
    first = one.read([0, 1, 2], draw=3)
    assert torch.equal(first.images, other.read([0, 1, 2], draw=3).images)
    assert not torch.equal(first.images, one.read([0, 1, 2], draw=4).images)
    assert not torch.equal(first.images, ObjectFolder(entry, size=(8, 8), seed=2).read([0, 1, 2], draw=3).images)
    copies = one.read([0] * 12, draw=0).images.mean((1, 2, 3))
    assert len(copies.unique()) > 5, "copies of one image are cropped differently"
    middle = one.pair(0)[0].mean() * 255
    assert middle == pytest.approx(rgb[0, 30:60].mean(), abs=1.5)


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_crop_boxes_are_squares_inside(width, height, seed):
    offset = random.Random(seed).randint(0, max(width, height) - min(width, height))
    left, upper, right, lower = crop_box(width, height, offset)
    assert right - left == lower - upper == min(width, height)
    assert min(left, upper) == 0
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height


def test_frames_in_memory_are_prepared_like_files(tmp_path):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (30, 50, 3), dtype=np.uint8)
    mask = np.zeros((30, 50), bool)
    mask[5:20, 10:30] = True
    (tmp_path / "o/imgs").mkdir(parents=True)
    Image.fromarray(rgb).save(tmp_path / "o/imgs/0.png")
    write_mask(tmp_path / "o/masks/0.png", mask.astype(np.uint8), binary=True)
    image, truth = ObjectFolder(open_object(tmp_path / "o/imgs", tmp_path / "o/masks"), size=(16, 16)).pair(0)
    assert torch.equal(resize_frame(rgb, (16, 16)), image)
    assert torch.equal(resize_truth(mask, (16, 16)), truth)


@given(st.integers(0, 40), st.integers(1, 9), st.sampled_from(["sequence", "random"]), st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_streams_hold_every_object_and_the_due_repeats(count, every, strategy, seed):
    names = [f"o{i}" for i in range(count)]
    stream = object_stream(names, strategy=strategy, seed=seed, every=every)
    assert len(stream) == count + count // every
    seen: list[str] = []
    for place, name in enumerate(stream):
        if (place + 1) % (every + 1) == 0:
            assert name == stream[place - every]
            assert name in seen
        else:
            assert name not in seen
            seen.append(name)
    assert sorted(seen) == sorted(names)
    assert object_stream(names, strategy=strategy, seed=seed, every=every, limit=5) == stream[:5]


def test_refused_orders():
    with pytest.raises(UsageError, match="backwards"):
        object_stream(["a"], strategy="backwards")
    with pytest.raises(UsageError, match="one start per length"):
        joint_batches([3], starts=[0, 3], batch_size=2, rng=random.Random(0))


@given(st.lists(st.integers(0, 20), max_size=6), st.integers(1, 8), st.booleans(), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_joint_batches_hold_one_object_each(lengths, batch_size, balance, seed):
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    owner = {start + k: i for i, (start, n) in enumerate(zip(starts, lengths, strict=True)) for k in range(n)}
    batches = joint_batches(lengths, batch_size=batch_size, balance=balance, rng=random.Random(seed))
    assert all(len(batch) == batch_size and len({owner[i] for i in batch}) == 1 for batch in batches)
    flat = [i for batch in batches for i in batch]
    assert len(flat) == len(set(flat))
    count = [sum(owner[batch[0]] == i for batch in batches) for i in range(len(lengths))]
    full = [n // batch_size for n in lengths]
    fewest = min((n for n in full if n), default=0)
    assert count == ([min(n, fewest) for n in full] if balance else full)
    kept = joint_batches(lengths, batch_size=batch_size, balance=balance, rng=random.Random(seed), partial="keep")
    assert {owner[batch[0]] for batch in kept} >= {i for i, n in enumerate(lengths) if n >= 2 or n >= batch_size}


def test_few_shot_frames_and_scored_ones():
    assert few_shot_frames(5, 2) == [0, 1, 0, 1, 0]
    assert few_shot_frames(3, 0) == few_shot_frames(3, 9) == [0, 1, 2]
    assert few_shot_frames(12, 3, shuffle_seed=3)[:4] == [11, 9, 7, 11]
    assert scored_subset(4, 0) == scored_subset(4, 9) == [0, 1, 2, 3]
    assert len(set(scored_subset(40, 10))) == 10


def test_how_many_codes_are_rehearsed():
    assert sorted(remembered_picks(10, random.Random(0))) == list(range(10))
    assert [len(remembered_picks(n, random.Random(0))) for n in (0, 1, 11, 14, 15, 100)] == [0, 1, 2, 2, 3, 20]
