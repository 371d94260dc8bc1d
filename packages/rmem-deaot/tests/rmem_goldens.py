"""How the goldens store things: slices, statistics, clips, options of a run; shared by the parity tests."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from rmem_deaot.tracker import TrackerOptions

MEAN, STD = np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225))


def sliced(case: Mapping[str, Any], name: str, value: Any) -> np.ndarray:
    """Return `value` as the golden array `name` is stored."""
    value = np.asarray(value)
    for pattern, steps in case.get("slices", {}).items():
        if fnmatch.fnmatchcase(name, pattern):
            if isinstance(steps, Mapping):
                return value.reshape(-1)[: steps["stop"] : steps["step"]]
            return value[tuple(slice(None, None, step) for step in steps)]
    return value


def statistics(value: Any) -> np.ndarray:
    """Return mean, standard deviation and largest magnitude in float64."""
    value = np.asarray(value, np.float64)
    return np.asarray([value.mean(), value.std(), np.abs(value).max()])


def check_tensor(case: Mapping[str, Any], gold: Mapping[str, np.ndarray], name: str, value: Any) -> None:
    """Compare a tensor and its statistics with the golden ones by the case's relative tolerance."""
    value, tolerance = np.asarray(value), case["tolerance"]
    stats = statistics(value)
    scale = gold[f"{name}_stats"][1] if f"{name}_stats" in gold else stats[1]
    atol = tolerance["tensor_atol_per_std"] * scale
    if name in gold:
        found = sliced(case, name, value)
        np.testing.assert_allclose(found, gold[name], rtol=tolerance["tensor_rtol"], atol=atol, err_msg=name)
    if f"{name}_stats" in gold:
        np.testing.assert_allclose(
            stats, gold[f"{name}_stats"], rtol=tolerance["tensor_rtol"], atol=atol, err_msg=f"{name} stats"
        )


def image(rgb: np.ndarray) -> torch.Tensor:
    """Return the network's input of a frame that has an aligned size."""
    return torch.from_numpy((rgb.astype(np.float32) / 255 - MEAN) / STD).permute(2, 0, 1).unsqueeze(0)


def options_of(case: Mapping[str, Any], **changes: Any) -> TrackerOptions:
    """Return how a case's clip is remembered."""
    values = {
        "gap": case["gap"],
        "former": case["former"] or 1,
        "latter": case["latter"] or 10**6,
        "rule": "relevance" if case["restrict"] and case["restrict_by_attention"] else "oldest",
        "lazy_statistics": case["lazy_stats"],
        "st_skip": case["st_skip"],
        "temporal_position": case["tpe"],
        "all_channels": not case["mask_unused_ids"],
    }
    return TrackerOptions(**{**values, **changes})


def frames_and_mask(case: Mapping[str, Any], read: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames of a case and the label map of the first one."""
    own = read(case["file"])
    clip = own if "frames" in own else read(case["clip"])
    return clip["frames"][: case["nframes"]], own["mask0"] if "mask0" in own else clip["mask0"]
