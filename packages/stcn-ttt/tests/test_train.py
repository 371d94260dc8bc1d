"""Offline training: start weights, the loss, runs that stop and go on, chains, what is refused; mostly with a toy network."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from click.testing import CliRunner
from PIL import Image
from torch import nn

from stcn_ttt.cli import main
from stcn_ttt.model import STCN
from stcn_ttt.model.network import Segmentation, sum_of_others
from stcn_ttt.train import objective, run, start
from stcn_ttt.train.objective import TripletPass, Triplets, bootstrapped, overlap_counts, triplet_loss
from stcn_ttt.train.run import DataRoots, TrainOptions, stage_data, train_chain, train_stage
from stcn_ttt.train.stages import STAGES
from stcn_ttt.train.start import start_network
from stcn_ttt.weights import FIRST_CONV
from vos_core.data.synthetic_write import ClipPlan, write_davis, write_youtube_vos
from vos_core.errors import LayoutError, UsageError, WeightsError
from vos_core.io.masks import write_mask
from vos_core.ops.aggregate import aggregate_logits
from vos_core.testing import run_ranks
from vos_core.training.distributed import Ranks
from vos_core.weights.load import load_state

PLAN = ClipPlan(clips=2, frames=11, height=48, width=64, objects=2)


class Toy(nn.Module):
    """A network of two convolutions with the interface that the losses use."""

    def __init__(self):
        super().__init__()
        self.value, self.read = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(7, 1, 3, padding=1)

    def encode_key(self, images):
        return list(images.unbind(1))

    def encode_value(self, state, image, masks, others):
        return torch.stack([self.value(torch.cat((image, mask), 1)) for mask in masks.split(1, 1)], 1)

    def segment(self, state, memory, *, selector, empty_slots):
        value = sum(v for _, v in memory) / len(memory)
        probs = (
            torch.cat([self.read(torch.cat((state, v), 1)) for v in value.unbind(1)], 1).sigmoid() * selector[:, :, None, None]
        )
        probs = torch.cat((probs, probs.new_zeros(probs.shape[0], empty_slots, *probs.shape[2:])), 1)
        aggregated = aggregate_logits(probs)
        return Segmentation(aggregated, aggregated.softmax(1))


@pytest.fixture
def toy(monkeypatch):
    """Puts `Toy` in STCN's place; collects how stages were started."""
    started = []

    def begin(previous, *, single_object, init, seed):
        started.append((previous, single_object, init, seed))
        torch.manual_seed(seed)
        network = Toy()
        if previous is not None:
            network.load_state_dict(load_state(previous))
        return network

    monkeypatch.setattr(run, "start_network", begin)
    monkeypatch.setattr(objective, "StcnBackbone", lambda network: network)
    return started


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_davis(root / "DAVIS", PLAN)
    write_youtube_vos(root / "YouTube", PLAN)
    for t in range(3):
        for folder in ("JPEGImages", "Annotations"):
            (root / "BL30K" / folder / "a").mkdir(parents=True, exist_ok=True)
        labels = np.zeros((64, 96), np.uint8)
        labels[10:50, 20 + t : 60 + t] = 1
        Image.fromarray(np.repeat(labels[..., None] * np.uint8(200), 3, 2)).save(
            root / "BL30K" / "JPEGImages" / "a" / f"{t:05d}.jpg"
        )
        write_mask(root / "BL30K" / "Annotations" / "a" / f"{t:05d}.png", labels)
    (root / "static" / "ecssd").mkdir(parents=True)
    for name in "abc":
        Image.fromarray(np.random.default_rng(3).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(
            root / "static" / "ecssd" / f"{name}.jpg"
        )
        Image.fromarray(np.pad(np.full((20, 20), 255, np.uint8), ((10, 10), (15, 15)))).save(
            root / "static" / "ecssd" / f"{name}.png"
        )
    return DataRoots(static=root / "static", bl30k=root, youtube=root / "YouTube", davis=root / "DAVIS")


def options(output, roots, **changes):
    values = {"iterations": 3, "batch_size": 2, "size": 32, "workers": 0, "init": "random", "progress": False, "log_every": 1}
    return TrainOptions(**{"output": output, "name": "x", "roots": roots, "lr": 1e-2, **values, **changes})


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- start weights ---


def test_a_first_stage_starts_from_imagenet(monkeypatch):
    torch.manual_seed(1)
    states = {name: getattr(torchvision.models, name)(weights=None).state_dict() for name in ("resnet50", "resnet18")}
    monkeypatch.setattr(start, "imagenet_state", states.__getitem__)
    network = start_network(None, single_object=False, init="imagenet", seed=3)
    found = network.state_dict()
    for name, value in states["resnet50"].items():
        if not name.startswith(("layer4", "fc")):
            assert torch.equal(found[f"key_encoder.{name.replace('layer1.', 'res2.')}"], value), name
    for name, value in states["resnet18"].items():
        if not name.startswith(("layer4", "fc")):
            assert torch.equal(
                found[f"value_encoder.{name}"][:, :3] if name == "conv1.weight" else found[f"value_encoder.{name}"], value
            )
    extra = found[FIRST_CONV][:, 3:].flatten(1)
    assert extra.shape == (64, 98)
    torch.testing.assert_close(extra @ extra.T, torch.eye(64), atol=1e-5, rtol=0)
    biases = [
        name
        for name in found
        if name.startswith("value_encoder.") and "conv" in name and name.endswith("bias") and "fuser" not in name
    ]
    assert len(biases) == 13
    assert not any(found[name].any() for name in biases)
    assert not found["value_encoder.layer2.0.downsample.0.bias"].any()
    assert not found["key_proj.key_proj.bias"].any()
    key = found["key_proj.key_proj.weight"].flatten(1)
    torch.testing.assert_close(key @ key.T, torch.eye(64), atol=1e-4, rtol=0)
    untrained = start_network(None, single_object=False, init="random", seed=3).state_dict()
    assert torch.equal(untrained["decoder.pred.weight"], found["decoder.pred.weight"])
    assert not torch.equal(untrained["key_encoder.conv1.weight"], found["key_encoder.conv1.weight"])


def test_a_later_stage_starts_from_the_one_before(tmp_path, random_network):
    state = random_network.state_dict()
    torch.save(state, tmp_path / "five.pth")
    torch.save({**state, FIRST_CONV: state[FIRST_CONV][:, :4].clone()}, tmp_path / "four.pth")
    widened = start_network(tmp_path / "four.pth", single_object=False, init="imagenet", seed=3).state_dict()
    assert same({k: v for k, v in widened.items() if k != FIRST_CONV}, {k: v for k, v in state.items() if k != FIRST_CONV})
    assert torch.equal(widened[FIRST_CONV][:, :4], state[FIRST_CONV][:, :4])
    extra = widened[FIRST_CONV][:, 4].flatten(1)
    torch.testing.assert_close(extra.T @ extra, torch.eye(49), atol=1e-5, rtol=0)
    again = start_network(tmp_path / "four.pth", single_object=False, init="imagenet", seed=3).state_dict()
    assert torch.equal(again[FIRST_CONV], widened[FIRST_CONV])
    assert same(start_network(tmp_path / "five.pth", single_object=False, init="imagenet", seed=3).state_dict(), dict(state))
    with pytest.raises(WeightsError, match="several objects"):
        start_network(tmp_path / "five.pth", single_object=True, init="imagenet", seed=3)
    with pytest.raises(WeightsError, match=r"none\.pth"):
        start_network(tmp_path / "none.pth", single_object=False, init="imagenet", seed=3)


# --- the loss ---


def triplets(selector=((1, 1), (1, 0)), size=32):
    torch.manual_seed(0)
    classes = torch.zeros(len(selector), 3, size, size, dtype=torch.long)
    for b, chosen in enumerate(selector):
        for slot, there in enumerate(chosen):
            classes[b, :, 4:20, 3 + 14 * slot : 15 + 14 * slot] = (slot + 1) * there
    return Triplets(torch.randn(len(selector), 3, 3, size, size), classes, torch.tensor(selector, dtype=torch.float32))


def test_a_sample_with_one_object_is_scored_on_two_channels():
    logits, batch = torch.randn(2, 3, 6, 7, requires_grad=True), triplets(size=7)
    classes = torch.randint(0, 2, (2, 6, 7))
    value = bootstrapped(logits, classes, batch.selector, 1.0)
    expected = (F.cross_entropy(logits[:1], classes[:1]) + F.cross_entropy(logits[1:, :2], classes[1:])) / 2
    torch.testing.assert_close(value, expected)
    value.backward()
    assert logits.grad[0, 2].any()
    assert not logits.grad[1, 2].any()
    hardest = bootstrapped(logits, classes, batch.selector, 0.15)
    costs = F.cross_entropy(logits[:1], classes[:1], reduction="none").flatten().sort(descending=True).values
    other = F.cross_entropy(logits[1:, :2], classes[1:], reduction="none").flatten().sort(descending=True).values
    kept = int(42 * 0.15)
    torch.testing.assert_close(hardest, (costs[:kept].mean() + other[:kept].mean()) / 2)


def test_the_loss_sums_both_predictions_and_logs_them(monkeypatch):
    monkeypatch.setattr(objective, "StcnBackbone", lambda network: network)
    torch.manual_seed(0)
    model, batch = TripletPass(Toy()), triplets()
    result = triplet_loss(model, batch, 45_000)
    values = result.values
    torch.testing.assert_close(result.loss.detach(), values["loss_1"] + values["loss_2"])
    assert values["p"] == pytest.approx(0.575)
    counts = overlap_counts(model(batch), batch)
    assert values["iou"].item() == pytest.approx((counts["i"].item() + 1) / (counts["u"].item() + 1))
    assert "sec_iou" in values
    grid = result.pictures()["triplets"]
    assert np.asarray(grid).dtype == np.uint8
    single = triplet_loss(model, Triplets(batch.images, batch.classes.clamp(max=1), batch.selector[:, :1]), 0)
    assert "sec_iou" not in single.values


def test_the_pass_is_the_spec_s_step_written_out(random_network):
    batch, network = triplets(), random_network
    with torch.no_grad():
        found = TripletPass(network)(batch)
        keys = [network.encode_key(batch.images[:, t]) for t in range(3)]
        masks = batch.masks(0)
        value = network.encode_value(batch.images[:, 0], keys[0].f16, masks, others=masks.flip(1))
        first = network.segment(keys[1], keys[0].key[:, :, None], value[:, :, :, None], selector=batch.selector)
        soft = first.probs[:, 1:]
        later = network.encode_value(batch.images[:, 1], keys[1].f16, soft, others=sum_of_others(soft))
        memory = torch.stack((keys[0].key, keys[1].key), 2), torch.stack((value, later), 3)
        second = network.segment(keys[2], *memory, selector=batch.selector)
    for one, two in zip(found, (first, second), strict=True):
        torch.testing.assert_close(one.logits, two.logits, rtol=1e-4, atol=1e-4)


# --- runs ---


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_stage_trains_and_writes_its_files(stage, toy, data, tmp_path):
    final = train_stage(STAGES[stage], options(tmp_path, data, batch_size=1), Ranks())
    assert final == tmp_path / f"x_s{stage}" / f"x_s{stage}_3.pth"
    assert toy == [(None, stage == 0, "random", 14159265)]
    assert load_state(final).keys() == Toy().state_dict().keys()
    checkpoint = torch.load(final.parent / "checkpoint_3.pth")
    assert {"it", "network", "optimizer", "scheduler", "scaler", "random"} <= checkpoint.keys()
    assert checkpoint["it"] == 3
    group = checkpoint["optimizer"]["param_groups"][0]
    assert (group["weight_decay"], group["betas"]) == (1e-7, (0.9, 0.999))
    assert train_stage(STAGES[stage], options(tmp_path, data, batch_size=1), Ranks()) == final


@pytest.mark.parametrize("stage", [0, 3])
def test_a_run_that_stopped_goes_on_bit_for_bit(stage, toy, data, tmp_path):
    whole = train_stage(STAGES[stage], options(tmp_path / "whole", data, iterations=5), Ranks())
    asked = options(tmp_path / "parts", data, iterations=5, save_every=3)
    train_stage(STAGES[stage], asked, Ranks())
    folder = tmp_path / "parts" / f"x_s{stage}"
    for name in (f"x_s{stage}_5.pth", "checkpoint_5.pth"):
        (folder / name).unlink()
    np.random.seed(5)
    torch.manual_seed(5)
    resumed = train_stage(STAGES[stage], asked, Ranks())
    assert same(load_state(resumed), load_state(whole))
    (folder / resumed.name).unlink()
    assert same(load_state(train_stage(STAGES[stage], asked, Ranks())), load_state(whole)), "nothing is left to do"


def test_a_chain_hands_the_network_on(toy, data, tmp_path):
    last = train_chain((0, 3), options(tmp_path, data, batch_size=1), Ranks())
    first = tmp_path / "x_s0" / "x_s0_3.pth"
    assert [(previous, single) for previous, single, *_ in toy] == [(None, True), (first, False)]
    assert last == tmp_path / "x_s3" / "x_s3_3.pth"
    assert not same(load_state(first), load_state(last))


def test_a_checkpoint_of_the_original_is_gone_on_from(toy, data, tmp_path):
    first = train_stage(STAGES[3], options(tmp_path / "a", data, iterations=2), Ranks())
    whole = torch.load(first.parent / "checkpoint_2.pth")
    torch.save({key: whole[key] for key in ("it", "network", "optimizer", "scheduler")}, tmp_path / "x_checkpoint.pth")
    asked = options(tmp_path / "b", data, iterations=3, load_model=tmp_path / "x_checkpoint.pth")
    final = train_stage(STAGES[3], asked, Ranks())
    assert torch.load(final.parent / "checkpoint_3.pth")["it"] == 3
    moved = {k: v - whole["network"][k] for k, v in load_state(final).items()}
    assert 0 < max(v.abs().max() for v in moved.values()) < 0.02, "one step of rate 0.01"
    torch.save({"it": 1}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match=r"bad\.pth"):
        train_stage(STAGES[3], options(tmp_path / "c", data, load_model=tmp_path / "bad.pth"), Ranks())


@pytest.mark.parametrize(
    "change", [{"lr": 1e-3}, {"batch_size": 1}, {"milestones": (1,)}, {"size": 48}, {"gamma": 0.5}, {"seed": 1}]
)
def test_other_settings_in_the_same_place_are_refused(change, toy, data, tmp_path):
    train_stage(STAGES[3], options(tmp_path, data, iterations=1), Ranks())
    for iterations in (1, 2):
        with pytest.raises(UsageError, match="other settings"):
            train_stage(STAGES[3], options(tmp_path, data, **{"iterations": iterations, **change}), Ranks())


@pytest.mark.parametrize(("stage", "named"), [(0, "--static_root"), (1, "--bl_root"), (2, "--davis_root"), (3, "--yv_root")])
def test_a_missing_root_is_named(stage, named, toy, tmp_path):
    with pytest.raises(UsageError, match=named):
        train_stage(STAGES[stage], options(tmp_path, DataRoots()), Ranks())
    with pytest.raises((LayoutError, UsageError), match="nowhere"):
        roots = DataRoots(**dict.fromkeys(("static", "bl30k", "youtube", "davis"), tmp_path / "nowhere"))
        train_stage(STAGES[stage], options(tmp_path, roots), Ranks())


def test_the_mixture_repeats_davis_and_gaps_follow_the_annotation(data):
    both = stage_data(STAGES[3], options(None, data), steps=100, batch=4)
    assert len(both) == 5 * 2 + 2
    davis, youtube = both.rows[0][0], both.rows[-1][0]
    assert (davis.skip(0), youtube.skip(0), davis.min_crop) == (5, 1, 0.36)
    bl30k = stage_data(STAGES[1], options(None, data), steps=100, batch=1)
    assert (bl30k.min_crop, bl30k.ignore_small, bl30k.skip.divide) == (0.25, True, 1)


def test_subsets_choose_clips(data, tmp_path):
    names = sorted(path.name for path in (data.davis / "JPEGImages" / "480p").iterdir())
    (tmp_path / "list.json").write_text(json.dumps({"davis2017_train": names[:1], "youtube_vos_train": names}))
    roots = DataRoots(
        davis=data.davis, youtube=data.youtube, davis_subset=tmp_path / "list.json", youtube_subset=tmp_path / "list.json"
    )
    assert len(stage_data(STAGES[3], options(None, roots), steps=100, batch=4)) == 5 + 2


def test_the_rate_drops_at_the_milestones_and_batches_accumulate(toy, data, tmp_path):
    final = train_stage(STAGES[3], options(tmp_path, data, milestones=(1, 2), lr=0.5, accumulate=2, batch_size=1), Ranks())
    checkpoint = torch.load(final.parent / "checkpoint_3.pth")
    assert checkpoint["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.005)
    assert checkpoint["fingerprint"]["batch"] == 2


# --- STCN itself ---


def test_stages_step_with_stcn_in_evaluation_mode(random_network):
    network = copy.deepcopy(random_network).train()
    assert not any(module.training for module in network.modules())
    before = {name: value.clone() for name, value in network.named_buffers()}
    result = triplet_loss(TripletPass(network), triplets(), 0)
    result.loss.backward()
    assert math.isfinite(result.loss.item())
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    assert all(parameter.grad is not None for parameter in network.parameters()), "no parameter is left out, whatever the ranks"


@pytest.mark.slow
def test_the_chain_s03_with_stcn(data, tmp_path):
    asked = options(tmp_path, data, iterations=1, batch_size=2, lr=1e-5)
    state = load_state(train_chain((0, 3), asked, Ranks()))
    assert state.keys() == STCN().state_dict().keys()
    first = load_state(tmp_path / "x_s0" / "x_s0_1.pth")
    assert first[FIRST_CONV].shape[1] == 4
    assert state[FIRST_CONV].shape[1] == 5
    assert (state[FIRST_CONV][:, :4] - first[FIRST_CONV]).abs().max() < 2e-5
    shutil.rmtree(tmp_path)  # gigabytes


RANKS = """
import sys
import stcn_ttt.train.run
from stcn_ttt.cli import main

def rank():
    main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="ranks are forked")
def test_two_ranks_equal_one_process(data, tmp_path):
    words = ["train", "--stage", "3", "--davis_root", data.davis, "-i", "1", "--size", "32", "--init", "random"]
    words += ["--num_workers", "0", "--device", "cpu", "--lr", "1e-3", "--id", "x"]
    alone = CliRunner().invoke(main, [str(word) for word in (*words, "-b", 2, "-o", tmp_path / "one")])
    assert alone.exit_code == 0, alone.output
    run_ranks(RANKS, *words, "-b", 1, "-o", tmp_path / "two")
    one, two = (torch.load(tmp_path / name / "x_s3" / "checkpoint_1.pth") for name in ("one", "two"))
    shutil.rmtree(tmp_path)  # gigabytes
    assert one["fingerprint"] == two["fingerprint"]
    # The first moments are a tenth of the gradients.
    a, b = (result["optimizer"]["state"] for result in (one, two))
    largest = max(state["exp_avg"].abs().max() for state in a.values())
    assert all((a[i]["exp_avg"] - b[i]["exp_avg"]).abs().max() <= 1e-5 * max(1, largest) for i in a)
    moved = torch.cat([(two["network"][k] - v).abs().flatten() for k, v in one["network"].items() if v.is_floating_point()])
    assert (moved > 1e-5).float().mean() < 0.01, "Adam's first step follows signs: gradients that are noise may turn"
