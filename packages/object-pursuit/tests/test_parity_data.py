"""Orders, prepared images and scores against the goldens."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from object_pursuit import quality
from object_pursuit.data.images import ObjectEntry, ObjectFolder
from object_pursuit.data.objects import DAVIS_VAL
from object_pursuit.data.order import (
    crop_offset,
    joint_batches,
    legacy_shuffle,
    object_stream,
    remembered_picks,
    scored_subset,
)
from vos_core.io.images import list_images
from vos_core.testing import GOLDENS, golden_cases, needs_shared

pytestmark = pytest.mark.parity
FOLDER = GOLDENS / "object-pursuit"
LISTS = {"davis_val": list(DAVIS_VAL)}


def stream_of(entry, names):
    return object_stream(
        names,
        strategy=entry["strategy"],
        seed=entry["shuffle_seed"],
        insert_seen=entry["insert_seen"],
        limit=entry["limit"],
    )


def made_by(entry, stored):
    """Return what our code gives for an entry of the orders; None where it is a plain list of names."""
    op = entry["op"]
    if op == "crop_offsets":
        rng = random.Random(entry["python_seed"])
        return [crop_offset(entry["width"], entry["height"], rng) for _ in range(entry["count"])]
    if op == "joint_batches":
        rng = random.Random(entry["python_seed"])
        for _ in range(entry["iteration"] + 1):
            batches = joint_batches(
                entry["lengths"],
                starts=entry["start_indices"],
                batch_size=entry["batch_size"],
                balance=entry["balance"],
                rng=rng,
            )
        return batches
    if op == "oneshot_test_subset":
        return scored_subset(entry["total"], entry["count"], seed=entry["generator_seed"])
    if op == "legacy_shuffle":
        items = list(range(entry["total"]))
        legacy_shuffle(items, random.Random(entry["python_seed"]))
        return items
    if op == "memory_picks":
        rng = random.Random(entry["python_seed"])
        picks = [remembered_picks(entry["codes"], rng) for _ in range(entry["steps"])]
        assert all(len(pick) == entry["count"] for pick in picks)
        return picks
    assert op == "object_stream", op
    names = stored[entry["names"]] if isinstance(entry["names"], str) else entry["names"]
    return stream_of(entry, names)


@pytest.mark.parametrize("case", golden_cases("object-pursuit", "orders"))
def test_orders(case):
    stored = json.loads((FOLDER / case["file"]).read_text())
    for entry in case["entries"]:
        if entry["op"] == "list":
            assert sorted(stored[entry["key"]]) == stored[entry["key"]]
            if entry["key"] in LISTS:
                assert stored[entry["key"]] == LISTS[entry["key"]]
            continue
        made = made_by(entry, stored)
        if entry.get("reference_raises"):
            names = entry["names"] if isinstance(entry["names"], list) else stored[entry["names"]]
            assert len(made) == len(names) + len(names) // 7
            assert sorted(set(made)) == sorted(names)
            assert made[7::8] == made[0::8], "each eighth entry repeats the one seven before it"
        else:
            assert made == stored[entry["key"]], entry["key"]


def clip_object(name, *, crop):
    folder = needs_shared("clips", name)
    images = list_images(folder / "JPEGImages")
    masks = [folder / "Annotations" / f"{path.stem}.png" for path in images]
    return ObjectFolder(ObjectEntry(name, name, tuple(images), tuple(masks), label="raw", crop=crop))


def resized_to(data, resize):
    width, height = resize
    return ObjectFolder(data.entry, size=(height, width))


@pytest.mark.parametrize("case", golden_cases("object-pursuit", "data"))
def test_prepared_images(case, shaped, assert_as_stored):
    stored = np.load(FOLDER / case["file"])
    data, rng = None, None
    for op in case["ops"]:
        if op["op"] == "open":
            data = resized_to(clip_object(op["clip"], crop=op["random_crop"]), case["resize"])
            rng = rng if op["python_seed"] is None else random.Random(op["python_seed"])
            continue
        assert op["op"] == "item"
        tensors = dict(zip(("image", "mask"), data.pair(op["index"], rng if data.cropped else None), strict=True))
        for output in op["outputs"]:
            value = tensors[output["of"]].numpy()
            value = value[0] if output["of"] == "mask" else value
            assert_as_stored(shaped(value, output), stored[output["array"]], output)


METRICS = {
    ("dice", "batch"): lambda p, g: quality.dice(p, g).mean(),
    ("dice", "image"): quality.dice,
    ("jaccard", "batch_pooled"): quality.jaccard_pooled,
    ("jaccard", "image"): quality.jaccard,
    ("pos_weight", "batch"): lambda p, g: torch.tensor(quality.positive_weight(g), dtype=torch.float64),
    ("iou_loss", "batch"): quality.iou_loss,
}


@pytest.mark.parametrize("case", golden_cases("object-pursuit", "metrics"))
def test_scores(case, assert_as_stored):
    stored = np.load(FOLDER / case["file"])
    masks = stored["masks_u8"]
    made = case["prediction"]
    rolled = np.roll(masks > made["gt_above"], made["shift"], axis=(1, 2))
    flips = np.random.RandomState(made["flip_seed"]).rand(*masks.shape) < made["flip_below"]
    prediction = rolled ^ flips
    np.testing.assert_array_equal(np.packbits(prediction), stored["pred"])
    p = torch.from_numpy(prediction).float()[:, None]
    g = torch.from_numpy(masks).float()[:, None] / 255
    for output in case["outputs"]:
        ours, truth = (torch.zeros(output["zeros"]),) * 2 if "zeros" in output else (p, g)
        if "sigmoid_of" in output:
            scale, shift = output["sigmoid_of"]
            ours = torch.sigmoid(scale * ours + shift)
        value = METRICS[output["metric"], output["over"]](ours, truth).double().numpy()
        assert_as_stored(value, stored[output["array"]], output)


GROUPED = ("forward", "comparators", "train_joint", "train_coeff", "train_newbase", "train_oneshot", "metrics")


@pytest.mark.parametrize("case", golden_cases("object-pursuit", *GROUPED))
def test_images_of_other_cases_come_from_the_clips(case):
    """The first picture of every group, rebuilt by the loader."""
    stored = np.load(FOLDER / case["file"])
    size = stored["masks_u8"].shape[-1]
    images = stored["images_u8"].reshape(len(case["image_groups"]), -1, size, size, 3) if "images_u8" in stored else None
    masks = stored["masks_u8"].reshape(len(case["image_groups"]), -1, size, size)
    for place, group in enumerate(case["image_groups"]):
        clip, index = group["frames"][0]
        data = clip_object(clip, crop=group["crop_x"] is not None)
        data = ObjectFolder(data.entry, size=(case["image_size"],) * 2)
        if not Path(data.entry.masks[index]).is_file():
            pytest.skip(f"frame {index} of {clip} has no mask")
        image, mask = data.pair(index, Fixed(group["crop_x"]))
        scale = 255 if masks[place, 0].max() > 1 else 1
        np.testing.assert_allclose(mask[0].numpy() * scale, masks[place, 0], atol=1.01)
        if images is not None:
            np.testing.assert_allclose(image.numpy() * 255, images[place, 0].transpose(2, 0, 1), atol=1.01)


class Fixed(random.Random):
    """Draws one number, whatever is asked."""

    def __init__(self, value):
        super().__init__(0)
        self.value = value

    def randint(self, a, b):
        assert a <= self.value <= b
        return self.value
