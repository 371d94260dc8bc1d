"""Drawing, cutting and substituting frame pairs."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rsp_pretrain.data.pairs import FramePairs, PairConfig, cut, draw_frames, draw_plans, normalise
from rsp_pretrain.data.sources import find_videos
from vos_core.errors import FrameError, LayoutError


def write_frames(folder: Path, count: int, size: tuple[int, int] = (60, 80)) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(count)
    for index in range(count):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{index:05d}.png")


def test_gaps_and_starts() -> None:
    rng = random.Random(0)
    drawn = [draw_frames(49, rng) for _ in range(500)]
    assert {start for start, _ in drawn} == {0}
    assert {end - start for start, end in drawn} == set(range(4, 49))
    drawn = [draw_frames(60, rng) for _ in range(2000)]
    assert {start for start, _ in drawn} == set(range(12))
    assert max(end for _, end in drawn) == 59
    assert {draw_frames(3, rng) for _ in range(100)} == {(0, 1), (0, 2), (1, 2)}
    with pytest.raises(FrameError, match="two frames"):
        draw_frames(1, rng)


def test_plans_depend_on_their_seeds_alone_and_leave_the_global_generators() -> None:
    torch.manual_seed(5)
    random.seed(5)
    before = (torch.rand(1), random.random())
    torch.manual_seed(5)
    random.seed(5)
    config = PairConfig(repeated_sampling=3)
    plans = draw_plans(100, (120, 160), config, python_seed=1, torch_seed=2)
    assert plans == draw_plans(100, (120, 160), config, python_seed=1, torch_seed=2)
    assert plans != draw_plans(100, (120, 160), config, python_seed=1, torch_seed=3)
    assert (torch.rand(1), random.random()) == before
    for plan in plans:
        top, left, height, width = plan.crop
        assert 0 <= top <= 120 - height
        assert 0 <= left <= 160 - width
        assert 0.49 <= height * width / (120 * 160) <= 1


def test_a_mirrored_crop_is_the_crop_mirrored() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    plan = draw_plans(10, (40, 50), PairConfig(repeated_sampling=1), python_seed=0, torch_seed=0)[0]
    straight, mirrored = (cut(rgb, plan._replace(flip=flip), (32, 40)) for flip in (False, True))
    assert straight.shape == (32, 40, 3)
    np.testing.assert_array_equal(straight[:, ::-1], mirrored)


def test_an_unreadable_video_is_replaced_with_a_warning(tmp_path: Path) -> None:
    write_frames(tmp_path / "good", 6)
    (tmp_path / "torn.mp4").write_bytes(b"nothing")
    pytest.importorskip("av")
    pairs = FramePairs([tmp_path / "torn.mp4", tmp_path / "good"], PairConfig(size=32))
    with pytest.warns(UserWarning, match=r"left out.*torn\.mp4"):
        source, target = pairs.draw(0, epoch=0, rng=np.random.default_rng(0))
    assert source.shape == target.shape == (2, 3, 32, 32)
    assert source.dtype == torch.uint8
    with pytest.warns(UserWarning), pytest.raises(FrameError, match="10 videos in a row"):
        FramePairs([tmp_path / "torn.mp4"]).draw(0, epoch=0, rng=np.random.default_rng(0))


def test_normalised_values() -> None:
    white = normalise(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten()
    np.testing.assert_allclose(white, [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], rtol=1e-6)


def test_sources(tmp_path: Path) -> None:
    write_frames(tmp_path / "any" / "deep" / "clip", 2)
    (tmp_path / "any" / "b.MP4").write_bytes(b"")
    (tmp_path / "any" / ".hidden.mp4").write_bytes(b"")
    write_frames(tmp_path / "any" / "single", 1)
    assert find_videos(tmp_path / "any") == (tmp_path / "any" / "b.MP4", tmp_path / "any" / "deep" / "clip")
    (tmp_path / "list.txt").write_text("any/b.MP4\n\n/elsewhere/c.mp4\n")
    assert find_videos(tmp_path / "list.txt") == (tmp_path / "any" / "b.MP4", Path("/elsewhere/c.mp4"))
    for name in ("x", "y"):
        (tmp_path / "k400" / "train2" / name).mkdir(parents=True)
        (tmp_path / "k400" / "train2" / name / "v.mp4").write_bytes(b"")
    assert [path.parent.name for path in find_videos(tmp_path / "k400")] == ["x", "y"]
    (tmp_path / "empty").mkdir()
    for place, message in (("empty", "holds no video"), ("absent", "does not exist")):
        with pytest.raises(LayoutError, match=message):
            find_videos(tmp_path / place)
