"""Pose and part propagation against the goldens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from rsp_pretrain.model import Encoder
from rsp_pretrain.probe.context import ContextConfig, ContextPropagation
from rsp_pretrain.probe.parts import at_truth_size, part_labels, parts_of
from rsp_pretrain.probe.pose import PoseScore, joint_labels, joint_points, to_grid, to_pixels
from rsp_pretrain.probe.prepare import prepare, processed_size
from vos_core.metrics.tracks import label_confusion, mean_iou_of
from vos_core.testing import golden_cases

pytestmark = pytest.mark.parity
Build = Callable[[Mapping[str, Any]], Encoder]
Arrays = Callable[[str], Mapping[str, np.ndarray]]


def check(found: Any, expected: Any, tolerance: Mapping[str, float], label: str) -> None:
    """Compare by the tolerances of these cases: `share` alone (without `max_abs`), and `per` frame."""
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert a.shape == b.shape, label
    inside = np.abs(a - b) <= tolerance["atol"] + tolerance["rtol"] * np.abs(b)
    share = tolerance.get("share", 1.0)
    assert inside.mean() >= share, f"{label}: {inside.mean():.5f} within, largest difference {np.abs(a - b).max():.3g}"
    if tolerance.get("per") == "frame":
        assert inside.reshape(len(a), -1).mean(1).min() >= share, label


def propagated(case: Any, encoder: Encoder, frames: np.ndarray, size: tuple[int, int], first: np.ndarray) -> tuple[Any, Any]:
    """Return soft labels of all frames `(T, h, w, C)` and the weights of the last one's best tokens `(k, tokens)`."""
    assert list(case["long_memory"]) == [0]
    names = ("topk", "radius", "temperature", "video_len")
    config = ContextConfig(**{name: case[name] for name in names})
    with torch.inference_mode():
        features = torch.cat([encoder.dense_features(prepare(frame, size)[None]) for frame in frames])
        context = ContextPropagation(config, features[0], torch.from_numpy(first))
        soft = [first, *(context.step(one).numpy() for one in features[1:-1])]
        keys = context.keys.clone()
        soft.append(context.step(features[-1]).numpy())
        # A label of its own for every context token: what comes back is its weight.
        probe = ContextPropagation(config, features[0], torch.from_numpy(first))
        probe.keys, probe.labels = keys, torch.eye(keys.shape[0] * keys.shape[1]).unflatten(0, keys.shape[:2])
        weights = torch.topk(probe.step(features[-1]).flatten(1), config.topk, 0).values
    return np.stack(soft), weights.numpy()


def measured(case: Any, frames: np.ndarray) -> tuple[int, int]:
    assert case["size_rule"] in ("exact_hw", "long_side_floor64")
    assert len(case["size"]) == (2 if case["size_rule"] == "exact_hw" else 1)
    assert [len(frames), *frames.shape[1:3]] == [case["n_frames"], *case["frame_size"]]
    size = processed_size(*frames.shape[1:3], case["size"], patch=case["patch_size"])
    assert [side // case["patch_size"] for side in size] == list(case["token_grid"])
    return size


@pytest.mark.parametrize("case", golden_cases("rsp-pretrain", "jhmdb_pose"))
def test_pose(case: Any, seeded_backbone: Build, golden_arrays: Arrays) -> None:
    gold, tolerance = golden_arrays(case["file"]), case["tolerance"]
    frames, truth = gold["frames"], gold["pos_img"]
    assert truth.shape == (2, case["joints"], case["n_frames"])
    size, grid = measured(case, frames), tuple(case["token_grid"])
    points = to_grid(truth, frame_size=frames.shape[1:3], size=size, patch=case["patch_size"])
    labels = [joint_labels(points[..., t], grid, sigma=case["label_sigma"]) for t in (0, points.shape[2] - 1)]
    for name, label in zip(("label0", "label_last"), labels, strict=True):
        check(label.transpose(1, 2, 0), gold[name], tolerance[name], name)
    soft, weights = propagated(case, seeded_backbone(case), frames, size, labels[0])
    check(soft.transpose(0, 2, 3, 1), gold["pred"], tolerance["pred"], "pred")
    check(weights, gold["top_w_last"], tolerance["top_w_last"], "top_w_last")
    coords = np.stack([joint_points(one, cells=case["coordinate_cells"]) for one in soft], 2)
    check(coords, gold["coords"], tolerance["coords"], "coords")
    score = PoseScore(scale=case["pck_scale"], skip=case["skip_frames"])
    score.add(truth, to_pixels(coords, frame_size=frames.shape[1:3], grid=grid))
    check([score.pck(threshold) for threshold in gold["pck_thr"]], gold["pck"], tolerance["pck"], "pck")


@pytest.mark.parametrize("case", golden_cases("rsp-pretrain", "vip_parts"))
def test_parts(case: Any, seeded_backbone: Build, golden_arrays: Arrays) -> None:
    gold, tolerance = golden_arrays(case["file"]), case["tolerance"]
    frames, truth = gold["frames"], gold["gt"]
    size, grid = measured(case, frames), tuple(case["token_grid"])
    assert list(size) == list(case["processed_size"])
    first = part_labels(truth[0], size=size, grid=grid)
    assert list(first.ids) == list(case["label_ids"])
    soft, _ = propagated(case, seeded_backbone(case), frames, size, first.soft)
    check(soft.transpose(0, 2, 3, 1), gold["pred_soft"], tolerance["pred_soft"], "pred_soft")
    parts = [parts_of(one, first.ids, size) for one in soft]
    check(parts, gold["pred_labels"], tolerance["pred_labels"], "pred_labels")
    pairs = [(true, at_truth_size(one, true.shape)) for true, one in zip(truth, parts, strict=True)]
    confusion = label_confusion(pairs, classes=case["classes"], ignore=None)
    assert case["hist_rows"] == "truth"
    moved = np.abs(confusion - gold["hist"]).sum() / 2 / gold["hist"].sum()
    assert moved <= tolerance["hist"]["moved_share"], moved
    check(mean_iou_of(confusion), gold["miou"].reshape(()), tolerance["miou"], "miou")
