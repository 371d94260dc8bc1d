"""Training clips against the goldens: which frames and objects are drawn, and what augmentation makes of them."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sam2_cases import clip_labels, clip_rgb

from sam2_rcms.train.config import (
    AffineStep,
    ColourStep,
    CropStep,
    FlipStep,
    GreyStep,
    NormaliseStep,
    ResizeStep,
    SamplerConfig,
    TransformStep,
)
from sam2_rcms.train.dataset import build_sampler
from sam2_rcms.train.sampler import SampleError
from sam2_rcms.train.transform import ClipFrames, Draws, apply_transforms
from vos_core.testing import GOLDENS, assert_within, golden_cases

pytestmark = pytest.mark.parity
FOLDER = GOLDENS / "sam2-rcms"
KINDS = {"RandomUniformSampler": "uniform", "RandomGapSampler": "gap"}


@pytest.mark.parametrize("case", golden_cases("sam2-rcms", "samplers"))
def test_samplers(case: Any) -> None:
    assert case["visible_range"] == "half_open"
    entries = json.loads((FOLDER / case["file"]).read_text())
    assert {entry["seed"] for entry in entries} == set(case["seeds"])
    for entry in entries:
        sampler = build_sampler(SamplerConfig(kind=KINDS[entry["sampler"]], **entry["args"]))
        rng = random.Random(entry["seed"])
        spans = {int(key): span for key, span in entry["objects_visible"].items()}

        def visible(frame: int, spans: dict[int, list[int]] = spans) -> list[int]:
            return [object_id for object_id, (first, stop) in spans.items() if first <= frame < stop]

        assert len(entry["draws"]) == case["draws"]
        for expected in entry["draws"]:
            if isinstance(expected, str):
                with pytest.raises(SampleError):
                    sampler.draw(entry["video_len"], visible, rng)
                continue
            found = sampler.draw(entry["video_len"], visible, rng)
            assert [list(found.frames), list(found.objects)] == expected


def steps_of(pipeline: Any, crop_prob: float | None) -> list[TransformStep]:
    """The configuration of a case's pipeline, in the order listed."""
    steps: list[TransformStep] = []
    for name, value in pipeline.items():
        if name == "hflip_p":
            steps.append(FlipStep(p=value))
        elif name == "affine":
            assert value["interpolation"] == "bilinear"
            steps.append(AffineStep(degrees=value["degrees"], shear=value["shear"]))
        elif name == "crop":
            assert value["pad_if_needed"]
            if crop_prob is not None:
                steps.append(CropStep(p=crop_prob, sizes=value["sizes"]))
        elif name == "resize":
            sizes = value["size"] if isinstance(value["size"], list) else [value["size"]]
            steps.append(ResizeStep(sizes=tuple(sizes), square=value["square"]))
        elif name in ("jitter_clip", "jitter_frame"):
            steps.append(ColourStep(**value, consistent=name == "jitter_clip"))
        elif name == "gray_p":
            steps.append(GreyStep(p=value))
        else:
            assert name in ("mean", "std"), f"step {name} is not known"
    return [*steps, NormaliseStep(mean=pipeline["mean"], std=pipeline["std"])]


@pytest.mark.parametrize("case", golden_cases("sam2-rcms", "transforms"))
def test_transforms(case: Any) -> None:
    assert case["foreground"] == "nonzero"
    gold, allowed = np.load(FOLDER / case["file"]), case["tol"]["arrays"]
    side = case["image_size"]
    for run in case["runs"]:
        images, masks = [], []
        for clip, index in case["frames"]:
            images.append(Image.fromarray(clip_rgb(clip, index)))
            masks.append(torch.from_numpy((clip_labels(clip, index) > 0).astype(np.uint8))[None])
        steps = steps_of(case["pipeline"], run["crop_prob"])
        pixels, found = apply_transforms(ClipFrames(images, masks), steps, Draws.of(run["seed"]))
        cut = tuple(slice(*part) for part in case["slices"]["img"])
        name = run["prefix"]
        assert_share(pixels.numpy()[cut], gold[f"{name}img"], allowed["img"], f"{name}img")
        summary = torch.stack((pixels.flatten(1).mean(1), pixels.flatten(1).std(1)), 1).numpy()
        assert_share(summary.reshape(gold[f"{name}ms"].shape), gold[f"{name}ms"], allowed["ms"], f"{name}ms")
        expected = np.unpackbits(gold[f"{name}seg"])[: np.prod(case["seg_shape"])].reshape(case["seg_shape"])
        assert_within(found[:, 0].numpy(), expected > 0, {"equal_share": allowed["seg"]["share"]}, label=f"{name}seg")
        assert sorted({*np.unique(found.numpy()).astype(int).tolist()}) == sorted(gold[f"{name}segvals"].astype(int).tolist())
        area = found[:, 0].sum((1, 2)).numpy()
        assert (np.abs(area - gold[f"{name}area"].ravel()) <= allowed["area"]["rel_of_pixels"] * side * side).all()


def assert_share(found: np.ndarray, expected: np.ndarray, rule: Any, label: str) -> None:
    """Compare by the rule `error <= atol + rtol * |golden|` for a share of the values."""
    assert found.shape == expected.shape, label
    inside = np.abs(found - expected) <= rule["atol"] + rule["rtol"] * np.abs(expected)
    assert inside.mean() >= rule.get("share", 1.0), f"{label}: {np.abs(found - expected).max():.3g}"
