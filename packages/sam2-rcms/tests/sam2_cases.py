"""Seeded networks, golden arrays and frames for the tests of SAM 2; conftest.py puts this folder on the path."""

from __future__ import annotations

import fnmatch
import functools
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from sam2_rcms.config import TrunkConfig
from sam2_rcms.model import SAM2
from vos_core.testing import GOLDENS, assert_within, clip_file, seeded_module

FOLDER = GOLDENS / "sam2-rcms"
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
SMALL_TRUNK = TrunkConfig(embed_dim=16, num_heads=1, stages=(1, 1, 1, 1), global_att_blocks=(2,))
"""A reduced image encoder for unit tests."""


def seeded_state(size: str, seed: int, edits: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """The state dict that a golden case describes by size, seed and weight edits."""
    with torch.device("meta"):
        network = SAM2(size)
    state = seeded_module().seeded_state(network, seed)
    for edit in edits:
        keys = fnmatch.filter(state, edit["match"])
        assert keys, edit["match"]
        for key in keys:
            state[key].mul_(edit.get("mul", 1)).add_(edit.get("add", 0))
    return state


@functools.lru_cache(maxsize=3)
def _network(size: str, seed: int, edits: str) -> SAM2:
    with torch.device("meta"):
        network = SAM2(size)
    network.load_state_dict(seeded_state(size, seed, json.loads(edits)), strict=True, assign=True)
    return network.eval()


def golden_network(case: Mapping[str, Any]) -> SAM2:
    """The network of a golden case; shared between tests, so leave it unchanged."""
    return _network(case["variant"], case["seed"], json.dumps(case["weight_edit"]))


@functools.lru_cache(maxsize=2)
def golden_arrays(name: str) -> Mapping[str, np.ndarray]:
    """The arrays of a golden npz file."""
    with np.load(FOLDER / name) as data:
        return dict(data)


@functools.lru_cache(maxsize=256)
def clip_rgb(clip: str, index: int) -> np.ndarray:
    """A frame of the shared clips by the number in its file name, uint8 `(H, W, 3)`."""
    return np.asarray(Image.open(clip_file(clip, "JPEGImages", index)).convert("RGB"))


def clip_labels(clip: str, index: int) -> np.ndarray:
    """An annotation of the shared clips by the number in its file name."""
    return np.asarray(Image.open(clip_file(clip, "Annotations", index)))


def squashed(clip: str, index: int, side: int) -> np.ndarray:
    """A frame as the network gets it before it is normalised, uint8 `(S, S, 3)`."""
    return np.asarray(Image.fromarray(clip_rgb(clip, index)).resize((side, side)))


def case_frames(case: Mapping[str, Any]) -> np.ndarray:
    """All frames of a case, uint8 `(T, S, S, 3)`."""
    return np.stack([squashed(clip, index, case["image_size"]) for clip, index in case["frames"]])


def same_frames(case: Mapping[str, Any], frames: np.ndarray) -> bool:
    """Whether this machine decodes the frames to the bytes that the goldens were made from."""
    if case.get("crc_array") is None:
        return True
    stored = golden_arrays(case["file"])[case["crc_array"]]
    return [zlib.crc32(frame.tobytes()) for frame in frames] == [int(value) for value in np.atleast_1d(stored)]


def normalised(frames: np.ndarray) -> torch.Tensor:
    """Network input `(T, 3, S, S)` of uint8 frames."""
    return (torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def cut(array: Any, slices: Sequence[Any] | None) -> np.ndarray:
    """An array cut as a case's `slices` say."""
    array = array.detach().float().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
    if slices is None:
        return array
    return array[tuple(part if isinstance(part, int) else slice(*part) for part in slices)]


def check(
    found: Any, gold: np.ndarray, tolerances: Mapping[str, Any], name: str, *, label: str = "", factor: float = 1.0
) -> None:
    """Compare with a golden array by its named tolerance (or the default one)."""
    tolerance = dict(tolerances.get(name, tolerances.get("default", {})))
    tolerance["atol"] = tolerance.get("atol", 0.0) * factor
    if tolerance.get("share", 1.0) < 1:
        tolerance["max_abs"] = np.inf
    else:
        tolerance.pop("share", None)
    assert_within(found, gold, tolerance, label=label or name)
