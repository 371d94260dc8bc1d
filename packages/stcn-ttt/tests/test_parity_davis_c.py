"""DAVIS-C corruptions against the goldens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from stcn_ttt.davis_c import pixel, stylised, temporal
from stcn_ttt.davis_c.make import STRENGTHS
from vos_core.errors import MissingExtraError
from vos_core.testing import assert_within, golden_cases

pytestmark = pytest.mark.parity


def corrupted(entry: Mapping[str, Any], frames: np.ndarray) -> np.ndarray:
    assert entry["channel_order"] == "bgr"
    bgr = [np.ascontiguousarray(frame[..., ::-1]) for frame in frames]
    strength, name = STRENGTHS.index(entry["level"]), entry["corruption"]
    assert entry["severity"] == strength + 3
    if name == "motion_blur":
        assert entry["input"] == "all"
        return np.stack(list(temporal.motion_blur(bgr, strength)))[..., ::-1]
    if name == "cartoon":
        return stylised.cartoon(bgr[0], strength)[..., ::-1]
    arguments = () if entry["numpy_seed"] is None else (np.random.RandomState(entry["numpy_seed"]),)
    if entry["input"] == "all":
        return np.stack([getattr(pixel, name)(frame, strength, *arguments) for frame in bgr])[..., ::-1]
    return getattr(pixel, name)(bgr[0], strength, *arguments)[..., ::-1]


@pytest.mark.parametrize("case", golden_cases("stcn-ttt", "davis_c"))
def test_corruptions_and_disks(case: Any, golden_arrays: Callable[[str], Mapping[str, np.ndarray]]) -> None:
    gold = golden_arrays(case["file"])
    for entry in case["corruptions"]:
        try:
            found = corrupted(entry, gold["frames"])
        except MissingExtraError:
            assert entry["optional"], entry["corruption"]
            continue
        assert_within(found, gold[entry["array"]], entry["tolerance"], label=entry["array"])
    for entry in case["disks"]:
        kernel = pixel.disk_kernel(entry["radius"], entry["alias_blur"])
        assert_within(kernel, gold[entry["array"]], entry["tolerance"], label=entry["array"])
