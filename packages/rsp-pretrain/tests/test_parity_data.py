"""Frame pairs against the goldens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL
import pytest

from rsp_pretrain.data.pairs import MEAN, STD, PairConfig, draw_plans, normalise, read_pairs
from vos_core.testing import GOLDENS, assert_within, golden_cases
from vos_core.types import RgbImage

pytestmark = pytest.mark.parity


class StoredFrames:
    """The frames of a golden video that its items use."""

    def __init__(self, gold: Any, video: dict[str, Any]) -> None:
        key = video["key"]
        self.size = (video["height"], video["width"])
        self._count = int(gold[f"{key}/len"])
        self._frames = dict(zip(gold[f"{key}/used_idx"].tolist(), gold[f"{key}/used_frames"], strict=True))

    def __len__(self) -> int:
        return self._count

    def read(self, indices: Sequence[int]) -> list[RgbImage]:
        return [self._frames[index] for index in indices]

    def close(self) -> None:
        pass


@pytest.mark.parametrize("case", golden_cases("rsp-pretrain", "data_pairs"))
def test_pairs(case: Any) -> None:
    gold, options = np.load(GOLDENS / "rsp-pretrain" / case["file"]), case["options"]
    assert options["interpolation"] == "bicubic"
    np.testing.assert_allclose((options["mean"], options["std"]), (MEAN, STD))
    config = PairConfig(
        repeated_sampling=options["repeated_sampling"],
        max_distance=options["max_distance"],
        min_distance=options["min_distance"],
        scale=options["crop_scale"],
        ratio=options["crop_ratio"],
        flip=options["hflip_p"],
    )
    videos = {video["key"]: video for video in case["videos"]}
    exact = _matches(gold, case, case["tolerance"], videos, config)
    if exact is not None:  # the pictures may differ by rounding under another Pillow, nothing else may
        assert case["tolerance"]["src"] != case["tolerance_other_pillow"]["src"], PIL.__version__
        other = _matches(gold, case, {**case["tolerance"], **case["tolerance_other_pillow"]}, videos, config)
        assert other is None, f"{other}; by the narrow tolerance: {exact}"


def _matches(gold: Any, case: Any, tolerance: Any, videos: Any, config: PairConfig) -> str | None:
    """Return what differs, or None."""
    try:
        for entry in case["items"]:
            key, video = entry["key"], videos[entry["video"]]
            reader = StoredFrames(gold, video)
            seeds = {"python_seed": entry["python_random_seed"], "torch_seed": entry["torch_seed"]}
            plans = draw_plans(len(reader), reader.size, config, **seeds)
            height, width = case["options"]["crop_size"]
            pairs = read_pairs(reader, plans, (height, width))
            source, target = normalise(pairs.source).numpy(), normalise(pairs.target).numpy()
            found = {
                "idx": np.array([(plan.source, plan.target) for plan in plans]).reshape(gold[f"{key}/idx"].shape),
                "params": np.array([plan.crop for plan in plans]),
                "nflip": np.array(2 * sum(plan.flip for plan in plans)).reshape(gold[f"{key}/nflip"].shape),
                "shape": np.array(source.shape),
                "src": source[tuple(slice(None, None, step) for step in case["steps"]["src"])],
                "tgt": target[tuple(slice(None, None, step) for step in case["steps"]["tgt"])],
                "stat": np.array([source.mean(), source.std(), target.mean(), target.std()]),
            }
            for name, value in found.items():
                assert_within(value, gold[f"{key}/{name}"], tolerance[name], label=f"{key}/{name}")
    except AssertionError as error:
        return str(error)
    return None
