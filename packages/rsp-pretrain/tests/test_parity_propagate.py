"""Features at any size and label propagation over whole clips against the goldens."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rsp_pretrain.config import PropagationConfig
from rsp_pretrain.prepare import normalise, one_hot_tokens, working_size
from rsp_pretrain.segmenter import RSPSegmenter
from vos_core.data.convert import davis_480_880
from vos_core.io.images import read_image
from vos_core.io.png import read_indices
from vos_core.testing import assert_within, clip_file, golden_cases
from vos_core.types import Frame, Prompt

pytestmark = pytest.mark.parity


def stepped(x: Any, steps: list[int] | None) -> np.ndarray:
    array = x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
    return array[tuple(slice(None, None, step) for step in steps)] if steps else array


def read(clip: str, number: int, crc: int) -> np.ndarray:
    rgb = read_image(clip_file(clip, "JPEGImages", number), backend="opencv")
    if zlib.crc32(np.ascontiguousarray(rgb[..., ::-1]).tobytes()) != crc:
        pytest.skip(f"frame {number} of {clip} decodes to other pixels: another JPEG decoder made the goldens")
    return rgb


def labels_of(clip: str, number: int, mapping: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    stored = read_indices(clip_file(clip, "Annotations", number))
    mapped = stored.copy()
    for value, object_id in mapping.items():
        mapped[stored == int(value)] = object_id
    return stored, mapped


def by_id(soft: torch.Tensor, ids: list[int], channels: int) -> torch.Tensor:
    """Soft labels with the object's id as channel: the reference has one up to the largest id that a token shows.

    Ids in between that no object has are channels of zeros there; an object with a larger id has no token, so none here either.
    """
    found = soft.new_zeros((channels, *soft.shape[1:]))
    found[0] = soft[0]
    for object_id, plane in zip(ids, soft[1:], strict=True):
        if object_id < channels:
            found[object_id] = plane
        else:
            assert not plane.any(), object_id
    return found


@pytest.mark.parametrize("case", golden_cases("rsp-pretrain", "features"))
def test_features(case: Any, seeded_backbone: Any, golden_arrays: Any) -> None:
    gold, within, encoder = golden_arrays(case["file"]), case["tolerance"], seeded_backbone(case)
    for item in case["items"]:
        rgb = read(item["clip"], item["frame"], item["frame_crc32"])
        image = normalise(rgb, working_size(*rgb.shape[:2], item["scale"]))
        with torch.inference_mode():
            tokens = encoder.embed(image)
            out = encoder.transform(tokens)[0]
        found = {
            "in_shape": np.asarray(image.shape[1:]),
            "ori": np.asarray(rgb.shape[:2]),
            "inp": image[0],
            "pos": encoder.positions(*image.shape[2:])[0],
            "tok": tokens[0],
            "out": out,
            "cls": out[0],
            "out_stat": np.asarray([out.mean(), out.std(), out.abs().max()]),
        }
        for name, bound in within.items():
            value = stepped(found[name], case["steps"].get(name))
            assert_within(value, gold[f"{item['key']}/{name}"], bound, label=f"{item['key']}/{name}")


@pytest.mark.parametrize("case", golden_cases("rsp-pretrain", "label_propagation"))
def test_label_propagation(case: Any, seeded_backbone: Any, golden_arrays: Any) -> None:
    gold, within, encoder = golden_arrays(case["file"]), case["tolerance"], seeded_backbone(case)
    names = ("topk", "size_mask_neighborhood", "n_last_frames", "temperature")
    config = PropagationConfig.model_validate({"scale": case["scale"], **{name: case[name] for name in names}})
    assert encoder.patch == case["patch_size"]
    segmenter = RSPSegmenter(encoder, config)
    frames = [
        Frame(index, f"{number:05d}", read(case["clip"], number, crc))
        for index, (number, crc) in enumerate(zip(case["frames"], case["frame_crc32"], strict=True))
    ]
    first = case["first_mask"]
    stored, labels = labels_of(first["clip"], first["frame"], first["map"])
    assert zlib.crc32(np.ascontiguousarray(stored).tobytes()) == first["crc32"]
    ids = [int(value) for value in np.unique(labels) if value]
    masks, soft = [], []
    for frame in frames:
        prompts = [Prompt(object_id, mask=labels == object_id) for object_id in ids] if frame.index == 0 else []
        result = segmenter.step(frame, prompts)
        masks.append(result.labels)
        assert segmenter.tracker.soft is not None
        soft.append(by_id(segmenter.tracker.soft, ids, case["channels"]))
    assert list(segmenter.grid) == case["token_grid"]
    assert_within(soft[0][None], gold["first_seg"], within["first_seg"], label="first mask")
    features = segmenter.tracker.features
    assert_within(stepped(features, case["steps"]["feat_last"]), gold["feat_last"], within["feat_last"], label="features")
    found, expected = torch.stack(soft[1:]).numpy(), gold["soft"]
    inside = np.abs(found - expected) <= within["soft"]["atol"] + within["soft"]["rtol"] * np.abs(expected)
    assert inside.mean() >= within["soft"]["share"], f"soft: {1 - inside.mean():.4%} outside"
    assert within["masks"]["per"] == "frame"
    assert list(masks[0].shape) == case["output_size"]
    for number, (found_map, expected_map) in enumerate(zip(masks, gold["masks"], strict=True)):
        assert_within(found_map, expected_map, {"equal_share": within["masks"]["share"]}, label=f"mask {number}")


@pytest.mark.parametrize("case", golden_cases("rsp-pretrain", "davis_preprocess"))
def test_davis_preparation(case: Any, golden_arrays: Any, tmp_path: Path) -> None:
    gold, within = golden_arrays(case["file"]), case["tolerance"]
    for item in case["items"]:
        clip, number, key = item["clip"], item["frame"], item["key"]
        folders = [tmp_path / key / kind / "480p" / clip for kind in ("JPEGImages", "Annotations")]
        for folder in folders:
            folder.mkdir(parents=True)
        # A lossless copy: what the JPEG encoder does after resizing depends on its build.
        Image.open(clip_file(clip, "JPEGImages", number)).convert("RGB").save(folders[0] / f"{number:05d}.png")
        if item["annotation"]:
            _, mapped = labels_of(clip, number, item["map"])
            Image.fromarray(mapped.astype(np.uint8)).save(folders[1] / f"{number:05d}.png")
        (tmp_path / key / "ImageSets" / "2017").mkdir(parents=True)
        (tmp_path / key / "ImageSets" / "2017" / "val.txt").write_text(f"{clip}\n")
        out = tmp_path / f"{key}-out"
        davis_480_880(tmp_path / key, out, height=case["size"][0], width=case["size"][1])
        image = np.asarray(Image.open(out / "JPEGImages" / "480p" / clip / f"{number:05d}.png"))
        assert_within(stepped(image, case["steps"]["img"]), gold[f"{key}/img"], within["img"], label="image")
        assert_within(image.mean(), gold[f"{key}/img_mean"], within["img_mean"], label="mean")
        if item["annotation"]:
            mask = read_indices(out / "Annotations" / "480p" / clip / f"{number:05d}.png")
            assert_within(stepped(mask, case["steps"]["ann"]), gold[f"{key}/ann"], within["ann"], label="annotation")


def test_masks_at_the_token_grid_are_one_hot() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[:32] = 2
    assert one_hot_tokens(labels, (4, 4), 3).sum(0).tolist() == [8.0, 0.0, 8.0]
