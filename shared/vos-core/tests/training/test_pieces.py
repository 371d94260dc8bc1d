"""Schedules, groups, average, losses, batches and augmentations against plain formulas."""

from __future__ import annotations

import gc
import importlib
import itertools
import math
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from vos_core.errors import UsageError, WeightsError
from vos_core.training import losses, schedule
from vos_core.training.batches import BatchPlan, Mixture, batch_stream
from vos_core.training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from vos_core.training.clip_augment import Affine, ColourJitter, ResizedCrop, flip, grey, resize_short_side
from vos_core.training.distributed import Ranks
from vos_core.training.ema import Ema, warming_decay
from vos_core.training.optim import build_optimizer, layer_decay, no_decay_for_vectors, parameter_groups


def test_schedules_by_their_formulas() -> None:
    assert [schedule.multistep([3, 5])(s) for s in (2, 3, 4, 5)] == pytest.approx([1, 0.1, 0.1, 0.01])
    assert [schedule.every(15, gamma=0.7)(s) for s in (14, 15, 30)] == pytest.approx([1, 0.7, 0.49])
    assert [schedule.cosine(10, floor=0.1)(s) for s in (0, 5, 10, 12)] == pytest.approx([1, 0.55, 0.1, 0.1])
    assert schedule.polynomial(9, power=0.9, floor=0.05)(4) == pytest.approx(0.05 + 0.95 * 0.6**0.9)
    warm = schedule.warmed(schedule.cosine(10), steps=4, floor=0.2)
    assert [warm(s) for s in (0, 2, 4, 14)] == pytest.approx([0.2, 0.6, 1, 0])


def test_groups_follow_their_rules_and_keep_their_own_schedule() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 1))
    rate = layer_decay(1.0, factor=0.5, depth=lambda name: int(name[0]) if name[0] != "2" else None, layers=2)
    groups = parameter_groups(model.named_parameters(), lr=rate, weight_decay=no_decay_for_vectors(0.1, names=("2.",)))
    found = {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["names"]}
    assert found == {
        "0.weight": (0.25, 0.1),
        "0.bias": (0.25, 0.0),
        "1.weight": (0.5, 0.0),
        "1.bias": (0.5, 0.0),
        "2.weight": (1.0, 0.0),
        "2.bias": (1.0, 0.0),
    }
    groups[0]["schedule"] = lambda step: 0.0
    optimizer = build_optimizer("adamw", groups, betas=(0.9, 0.95))
    assert schedule.apply_schedule(optimizer, lambda step: 0.5, 3) == 0.0
    assert optimizer.param_groups[1]["lr"] == pytest.approx(groups[1]["initial_lr"] * 0.5)
    model[0].weight.requires_grad_(False)
    names = [
        name for g in parameter_groups(model.named_parameters(), lr=1, weight_decay=0, one_per_tensor=True) for name in g["names"]
    ]
    assert names == ["0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_adam_steps_fused_and_equal_to_the_plain_one(kind) -> None:
    weights = []
    for settings in ({}, {"fused": False}):
        torch.manual_seed(0)
        model = nn.Linear(40, 30)
        groups = parameter_groups(model.named_parameters(), lr=1e-2, weight_decay=0.1)
        optimizer = build_optimizer(kind, groups, betas=(0.9, 0.95), **settings)
        assert optimizer.defaults["fused"] == (not settings)
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(4, 40)).square().mean().backward()
            optimizer.step()
        weights.append(model.weight.detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-7)


def test_a_group_has_a_floor_and_may_freeze() -> None:
    groups = [
        {"params": [nn.Parameter(torch.ones(1))], "lr": 0.2, "initial_lr": 0.2, "weight_decay": 0.1, **own}
        for own in ({"floor": 0.1}, {"frozen_from": 3})
    ]
    optimizer = build_optimizer("adamw", groups)
    rates = []
    for step in (1, 2, 3):
        assert schedule.apply_schedule(optimizer, lambda step: 1 - step / 4, step) == optimizer.param_groups[0]["lr"]
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert rates == [pytest.approx(row) for row in ([0.175, 0.15], [0.15, 0.1], [0.125, 0.0])]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def test_the_average_is_the_weighted_sum_of_what_it_saw() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    ema = Ema(model, warming_decay(0.5))
    expected = 1.0
    for n, value in enumerate((3.0, 5.0, 7.0), start=1):
        nn.init.constant_(model.weight, value)
        ema.update(model)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    with ema.applied(model):
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 7.0


def test_hardest_cross_entropy_keeps_the_largest_costs() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 5, 7), torch.randint(0, 3, (2, 5, 7))
    cost = F.cross_entropy(logits, target, reduction="none").flatten(1).sort(descending=True).values
    kept = int(35 * 0.3)
    torch.testing.assert_close(losses.hardest_cross_entropy(logits, target, fraction=0.3), cost[:, :kept].mean(1))
    torch.testing.assert_close(losses.hardest_cross_entropy(logits, target, fraction=1.0), cost.mean(1))
    target[0] = 255
    assert losses.hardest_cross_entropy(logits, target, fraction=1.0, ignore=255)[0] == 0


def test_soft_jaccard_ignores_and_averages_present_classes() -> None:
    torch.manual_seed(1)
    logits = torch.randn(1, 3, 2, 2)
    target = torch.tensor([[[0, 1], [1, 255]]])
    p = logits.softmax(1)[0]
    terms = []
    for c, cells in ((0, [(0, 0)]), (1, [(0, 1), (1, 0)])):
        inside = sum(p[c, y, x] for y, x in cells)
        outside = sum(p[c, y, x] for y, x in {(0, 0), (0, 1), (1, 0)} - set(cells))
        terms.append(1 - inside / (len(cells) + outside + 1e-6))
    torch.testing.assert_close(losses.soft_jaccard(logits, target, ignore=255), torch.stack(terms).mean()[None])


def test_dice_and_focal_by_their_formulas() -> None:
    torch.manual_seed(2)
    logits, target = torch.randn(2, 4, 4), torch.randint(0, 2, (2, 4, 4))
    p = logits.sigmoid()
    expected = 1 - (2 * (p * target).sum((1, 2)) + 1) / (p.sum((1, 2)) + target.sum((1, 2)) + 1)
    torch.testing.assert_close(losses.dice(logits, target), expected)


class Rows:
    def __init__(self, offset: int, count: int) -> None:
        self.offset, self.count = offset, count

    def __len__(self) -> int:
        return self.count

    def draw(self, index: int, *, epoch: int, rng: np.random.Generator) -> tuple[int, float]:
        return self.offset + index, float(rng.random())


def take(plan: BatchPlan, count: int) -> list[tuple[list[int], list[float]]]:
    stream = batch_stream(Mixture([(Rows(0, 4), 2), (Rows(100, 3), 1)]), plan)
    return [(rows.tolist(), draws.tolist()) for rows, draws in (next(stream) for _ in range(count))]


def test_batches_depend_on_the_position_alone() -> None:
    whole = take(BatchPlan(11, 2, seed=5), 9)
    assert take(BatchPlan(11, 2, seed=5, start=4), 5) == whole[4:]
    assert take(BatchPlan(11, 2, seed=6), 9) != whole
    epoch = [row for rows, _ in whole[:5] for row in rows]
    assert len(epoch) == 10
    assert epoch.count(0) <= 2
    assert max(epoch) < 103


ROWS_MODULE = """
class Rows:
    def __init__(self, fault=None, log=None):
        self.fault, self.log = fault, log

    def __len__(self):
        return 11

    def draw(self, index, *, epoch, rng):
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{index}\\n")
        if index == self.fault:
            raise ValueError(f"row {index} is torn")
        return index, float(rng.random())
"""


@pytest.fixture
def rows_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "rows_for_workers.py").write_text(ROWS_MODULE)  # a worker process must be able to import its data set
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("rows_for_workers")


def test_workers_and_prefetch_change_nothing_and_end_with_the_stream(rows_module: Any) -> None:
    before = multiprocessing.active_children()
    here = batch_stream(rows_module.Rows(), BatchPlan(11, 2))
    there = batch_stream(rows_module.Rows(), BatchPlan(11, 2), workers=2, prefetch=3)
    for _ in range(12):  # beyond two epochs, and more than the workers hold ready
        for a, b in zip(next(here), next(there), strict=True):
            assert torch.equal(a, b)
    workers = [child for child in multiprocessing.active_children() if child not in before]
    assert len(workers) == 2
    del there
    gc.collect()
    for worker in workers:
        worker.join(10)
        assert not worker.is_alive()


def test_a_worker_draws_just_as_far_ahead_as_asked_and_its_error_comes_in_its_turn(rows_module: Any, tmp_path: Path) -> None:
    plan = BatchPlan(11, 2, seed=1)
    order = [[int(row) for row in rows] for rows, _ in itertools.islice(batch_stream(rows_module.Rows(), plan), 3)]
    fault, log = order[2][0], tmp_path / "drawn.txt"
    stream = batch_stream(rows_module.Rows(fault, log), plan, workers=1, prefetch=2)
    assert next(stream)[0].tolist() == order[0]
    ahead = [*order[0], *order[1], fault]  # two batches ahead; the fault cut the second one short
    deadline = time.monotonic() + 20
    while len(log.read_text().split()) < len(ahead) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert [int(row) for row in log.read_text().split()] == ahead
    assert next(stream)[0].tolist() == order[1]
    with pytest.raises(ValueError, match=f"row {fault} is torn"):
        next(stream)


def test_ranks_share_each_global_batch() -> None:
    one = take(BatchPlan(11, 4), 4)
    two = [take(BatchPlan(11, 2, rank=r, world=2), 4) for r in range(2)]
    for k in range(4):
        assert one[k][0] == two[0][k][0] + two[1][k][0]


def test_gradients_of_pointwise_convolutions_are_laid_out_as_their_weights(tmp_path: Path) -> None:
    # Else DistributedDataParallel warns on every rank.
    torch.distributed.init_process_group("gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1)
    try:
        conv = nn.Conv2d(3, 4, 1)
        wrapped = Ranks(world=2).wrap(conv)
        picture = torch.rand(1, 3, 5, 5).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            wrapped(picture).float().sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert conv.weight.grad is not None
    assert conv.weight.grad.stride() == conv.weight.stride()
    torch.testing.assert_close(conv.weight.grad[0, :, 0, 0], picture.sum((0, 2, 3)), rtol=1e-2, atol=0)


def test_a_set_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="3 samples"):
        BatchPlan(3, 2, world=2)


def test_checkpoints_read_back_and_bad_ones_are_named(tmp_path: Path) -> None:
    folder = tmp_path
    path = folder / "checkpoint_12.pth"
    save_checkpoint(path, {"it": 12, "network": {"w": torch.ones(3)}})
    save_checkpoint(folder / "checkpoint_9.pth", {"it": 9})
    before = path.read_bytes()
    save_checkpoint(path, {"it": 12, "network": {"w": torch.ones(3)}})
    assert path.read_bytes() == before, "equal states make equal bytes"
    assert newest_checkpoint(folder) == path
    assert load_checkpoint(path)["network"]["w"].tolist() == [1, 1, 1]
    path.write_bytes(path.read_bytes()[:-40])
    for bad in (path, folder / "absent.pth"):
        with pytest.raises(WeightsError, match=bad.name):
            load_checkpoint(bad)
    assert newest_checkpoint(folder / "nowhere") is None


def picture(height: int = 40, width: int = 60) -> tuple[Image.Image, Image.Image]:
    rng = np.random.default_rng(0)
    rgb = np.kron(rng.integers(0, 255, (height // 4, width // 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    labels = np.zeros((height, width), np.uint8)
    labels[10:30, 20:40] = 7
    return Image.fromarray(rgb), Image.fromarray(labels)


def test_a_warp_moves_image_and_mask_alike_and_fills_borders() -> None:
    rgb, mask = picture()
    warp = Affine(angle=90.0)
    turned = np.asarray(warp.mask(mask))
    assert set(np.unique(turned)) == {0, 7}
    rows, columns = np.nonzero(turned)
    assert (np.ptp(rows), np.ptp(columns)) == (19, 19)
    assert tuple(np.asarray(warp.image(rgb))[0, 0]) == (124, 116, 104)
    assert np.array_equal(np.asarray(Affine().mask(mask)), np.asarray(mask))
    drawn = [Affine.draw(np.random.default_rng(s), degrees=15, shear=10, scale=(0.9, 1.1)) for s in range(200)]
    assert all(abs(a.angle) <= 15 and abs(a.shear) <= 10 and 0.9 <= a.scale <= 1.1 for a in drawn)
    assert np.std([a.angle for a in drawn]) == pytest.approx(30 / math.sqrt(12), rel=0.15)


def test_crops_stay_inside_and_have_the_asked_area() -> None:
    for seed in range(100):
        crop = ResizedCrop.draw(np.random.default_rng(seed), 480, 854, size=384, scale=(0.36, 1.0))
        assert crop.top + crop.height <= 480
        assert crop.left + crop.width <= 854
        assert 0.35 <= crop.height * crop.width / (480 * 854) <= 1.01
        assert 0.74 <= crop.width / crop.height <= 1.35
    rgb, mask = picture()
    crop = ResizedCrop(10, 20, 20, 20, 64)
    assert crop.image(rgb).size == crop.mask(mask).size == (64, 64)
    assert set(np.unique(np.asarray(crop.mask(mask)))) == {7}
    wide = ResizedCrop.draw(np.random.default_rng(0), 10, 1000, size=8, scale=(1.0, 1.0))
    assert (wide.height, wide.width) == (10, 13)


def test_colour_changes_keep_the_size_and_grey_is_grey() -> None:
    rgb, mask = picture()
    jitter = ColourJitter.draw(np.random.default_rng(1), brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1)
    assert np.abs(np.asarray(jitter.image(rgb)).astype(int) - np.asarray(rgb)).max() > 5
    same = ColourJitter.draw(np.random.default_rng(1), brightness=0, contrast=0, saturation=0)
    assert np.array_equal(np.asarray(same.image(rgb)), np.asarray(rgb))
    assert np.ptp(np.asarray(grey(rgb)), axis=2).max() == 0
    assert np.array_equal(np.asarray(flip(mask)), np.asarray(mask)[:, ::-1])
    assert resize_short_side(rgb, 20).size == (30, 20)
    assert set(np.unique(np.asarray(resize_short_side(mask, 93, mask=True)))) == {0, 7}
