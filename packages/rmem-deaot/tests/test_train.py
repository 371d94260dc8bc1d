"""Training: the pass over a clip, restricted banks of several clips, start weights, runs that stop and go on, ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from click.testing import CliRunner
from torch import nn

from rmem_deaot.cli import main
from rmem_deaot.config import VARIANTS
from rmem_deaot.model.drop_path import DropPath
from rmem_deaot.model.network import AOTNetwork
from rmem_deaot.train import run as train_run
from rmem_deaot.train import start
from rmem_deaot.train.bank import BankLimits
from rmem_deaot.train.objective import ClipPass, Objective
from rmem_deaot.train.pictures import clip_pictures, mean_overlap
from rmem_deaot.train.recipe import parameter_groups_of
from rmem_deaot.train.run import TrainOptions, input_side, train_stage
from rmem_deaot.train.samples import ClipBatch
from rmem_deaot.train.stages import STAGES, plan_stage
from rmem_deaot.train.start import grown, load_encoder, set_norms, start_network
from rmem_deaot.weights import ID_BANK, load_network
from vos_core.data.synthetic_write import ClipPlan, write_davis
from vos_core.errors import UsageError, WeightsError
from vos_core.testing import run_ranks
from vos_core.training.distributed import Ranks
from vos_core.training.ema import Ema
from vos_core.weights.load import load_state

SIZE = 33


def clips(*, frames=4, objects=(2, 1), size=SIZE, seed=0) -> ClipBatch:
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 255, (frames, len(objects), 3, size, size), dtype=np.uint8))
    labels = torch.zeros(frames, len(objects), size, size, dtype=torch.uint8)
    for b, count in enumerate(objects):
        for i in range(count):
            for t in range(frames):
                labels[t, b, 4 + t : 20 + t, 2 + 12 * i : 12 + 12 * i] = i + 1
    channels = torch.from_numpy(np.stack([np.concatenate(([0], 1 + rng.permutation(10))) for _ in objects]))
    return ClipBatch(images, labels, tuple(objects), channels)


def without_drops(network):
    for module in network.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    return network


@pytest.fixture(scope="module")
def network() -> AOTNetwork:
    """DeAOT with one layer and temporal positions, a form small enough to train here."""
    torch.manual_seed(0)
    config = VARIANTS["deaott"].network.model_copy(update={"temporal_position": True})
    built = without_drops(AOTNetwork(config)).train()
    set_norms(built, clips().normalised.flatten(0, 1))
    return built


# --- what is descended ---


def test_weights_fade_as_the_steps_go():
    objective = Objective(total_steps=100, aux_ratio=0.1)
    assert objective.hardest(0) == 1
    assert objective.hardest(50) == pytest.approx(0.15, abs=1e-6)
    assert objective.hardest(99) == pytest.approx(0.15)
    assert objective.aux(5) == pytest.approx(0.5, abs=1e-5)
    assert objective.aux(11) == 0
    assert [objective.uses_own_masks(step) for step in (49, 50)] == [False, True]
    assert not Objective(total_steps=100, own_masks=False).uses_own_masks(99)


def test_ignored_pixels_cost_nothing_and_a_frame_without_others_is_no_crash():
    objective = Objective(total_steps=100)
    logits = torch.randn(2, 11, 8, 8, requires_grad=True)
    labels = torch.zeros(2, 8, 8, dtype=torch.long)
    labels[0, :4] = 1
    labels[1] = 255
    loss = objective.frame_loss(logits, labels, (1, 1), 99)
    assert loss[1].item() == 0
    loss.sum().backward()
    assert not logits.grad[1].any()
    assert not logits.grad[0, 2:].any(), "channels of no object"
    part = labels.clone()
    part[0, 4:] = 255
    logits.grad = None
    objective.frame_loss(logits, part, (1, 1), 0).sum().backward()
    assert not logits.grad[0, :, 4:].any()
    assert logits.grad[0, :2, :4].all()


def test_the_identity_bank_learns_in_the_first_half_only(network):
    module = ClipPass(network, Objective(total_steps=100))
    for step, learns in ((0, True), (50, False)):
        network.zero_grad(set_to_none=True)
        found = module(clips(), step)
        found.loss.backward()
        assert (network.patch_wise_id_bank.weight.grad is not None) == learns
        assert (network.id_norm.weight.grad is not None) == learns
        assert network.LSTT.layers[0].linear_ID_V.weight.grad.any()
        assert found.logits.shape == (4, 2, 11, 9, 9)
    network.zero_grad(set_to_none=True)
    with torch.no_grad():
        assert not module(clips(), 99).loss.requires_grad


def test_the_aux_loss_leaves_once_its_weight_is_gone(network):
    batch = clips()
    with_aux = ClipPass(network, Objective(total_steps=1000, own_masks=False))(batch, 0)
    without = ClipPass(network, Objective(total_steps=1000, own_masks=False, aux_ratio=1e-9))(batch, 1)
    assert with_aux.loss.item() == pytest.approx((with_aux.frame_losses[1:].mean() + with_aux.frame_losses[0].mean()).item())
    assert without.loss.item() == pytest.approx(without.frame_losses[1:].mean().item())


def test_objects_are_told_apart_by_their_channels_only(network):
    """Other channels, other weights of the same bank: what comes out is in the order of the labels whatever they are."""
    batch = clips(objects=(2,))
    with torch.no_grad():
        one = ClipPass(network, Objective(total_steps=100))(batch, 0)
        turned = replace(batch, channels=batch.channels.clone())
        turned.channels[0, 1:3] = batch.channels[0, 1:3].flip(0)
        swapped = replace(turned, labels=torch.tensor([0, 2, 1], dtype=torch.uint8)[batch.labels.long()])
        two = ClipPass(network, Objective(total_steps=100))(swapped, 0)
    torch.testing.assert_close(two.logits[:, :, [0, 2, 1]], one.logits[:, :, :3])
    assert one.loss.item() == pytest.approx(two.loss.item(), rel=1e-5)


def test_objects_that_come_later_are_background_and_unused_identities_are_masked(network):
    batch = clips(objects=(1,))
    late = replace(batch, labels=batch.labels.clone())
    late.labels[2:, 0, 0:3, 0:3] = 7
    with torch.no_grad():
        a, b = (ClipPass(network, Objective(total_steps=100))(one, 0) for one in (batch, late))
    torch.testing.assert_close(a.frame_losses, b.frame_losses)
    assert (a.logits[:, :, 2:] == -1e10).all()


def test_own_masks_can_be_remembered_as_probabilities(network, monkeypatch):
    module = ClipPass(network, Objective(total_steps=100, soft_masks=True))
    given = []
    encode = network.encode_identity
    monkeypatch.setattr(network, "encode_identity", lambda masks: given.append(masks) or encode(masks))
    batch = clips()
    network.zero_grad(set_to_none=True)
    found = module(batch, 50)
    found.loss.backward()
    assert network.patch_wise_id_bank.weight.grad is None, "cut off, as with label maps"
    probs = nn.functional.interpolate(found.logits[1], size=(SIZE, SIZE), mode="bilinear", align_corners=True).softmax(1)
    for b, channels in enumerate(batch.channels):
        torch.testing.assert_close(given[1][b][channels], probs[b])
    assert 0 < given[1].max() < 1
    given.clear()
    with torch.no_grad():
        module(batch, 0)
    assert all(set(masks.unique().tolist()) <= {0, 1} for masks in given), "true masks in the first half"


# --- the bank ---


@pytest.mark.parametrize("rule", ["relevance", "oldest"])
def test_a_restricted_bank_decides_for_each_clip_of_a_batch(network, rule):
    objective = Objective(total_steps=100, gap=1, limits=BankLimits(1, 2, rule))
    batch = clips(frames=6, objects=(2, 1))
    found = ClipPass(network, objective)(batch, 0)
    assert all(len(held) == 3 and held[0] == 0 and held[-1] == 5 for held in found.bank)
    if rule == "oldest":
        assert set(found.bank) == {(0, 4, 5)}
    for b, count in enumerate(batch.objects):
        alone = ClipBatch(batch.images[:, b : b + 1], batch.labels[:, b : b + 1], (count,), batch.channels[b : b + 1])
        with torch.no_grad():
            single = ClipPass(network, objective)(alone, 0)
        assert single.bank[0] == found.bank[b]
        torch.testing.assert_close(single.frame_losses[:, 0], found.frame_losses[:, b], rtol=1e-4, atol=1e-5)
    network.zero_grad(set_to_none=True)
    found.loss.backward()
    assert network.mem_pos_emb.grad.any()


def test_clips_of_a_batch_may_drop_different_frames(network):
    banks = set()
    for seed in range(4):
        batch = clips(frames=7, objects=(2, 1), seed=seed)
        objective = Objective(total_steps=100, gap=1, limits=BankLimits(1, 3))
        with torch.no_grad():
            banks.add(len(set(ClipPass(network, objective)(batch, 0).bank)))
    assert 2 in banks


def test_an_unrestricted_bank_keeps_every_gapth_frame(network):
    with torch.no_grad():
        found = ClipPass(network, Objective(total_steps=100, gap=3))(clips(frames=8), 0)
    assert found.bank == ((0, 3, 6),) * 2


# --- what is logged ---


def test_overlap_and_pictures():
    batch = clips(frames=3, objects=(2, 1))
    perfect = nn.functional.one_hot(
        nn.functional.interpolate(batch.labels.float(), size=(9, 9)).long(), 11
    ).movedim(-1, 2).float()  # fmt: skip
    assert mean_overlap(perfect, batch).item() == 1
    assert mean_overlap(perfect.roll(1, 2), batch).item() < 0.5
    grid = clip_pictures(perfect, batch)["clips"]
    assert grid.dtype == np.uint8
    assert grid.shape == (6 * SIZE, 3 * SIZE, 3)


# --- start weights ---


def test_a_first_stage_starts_from_an_imagenet_encoder(monkeypatch):
    torch.manual_seed(1)
    models = {"mobilenet_v2": torchvision.models.mobilenet_v2, "resnet50": torchvision.models.resnet50}
    states = {name: build(weights=None).state_dict() for name, build in models.items()}
    monkeypatch.setattr(start, "imagenet_state", states.__getitem__)
    for variant, name in (("aott", "mobilenet_v2"), ("r50_deaotl", "resnet50")):
        network = start_network(variant, previous=None, init="imagenet", seed=3)
        own = network.encoder.state_dict()
        assert all(torch.equal(own[key], states[name][key]) for key in own)
        again = start_network(variant, previous=None, init="random", seed=3).state_dict()
        assert torch.equal(again[ID_BANK], network.state_dict()[ID_BANK])
    with pytest.raises(WeightsError, match="a classifier of mobilenetv2"):
        load_encoder(start_network("aott", previous=None, init="random", seed=0), states["resnet50"])


def test_swin_keeps_its_own_output_norms():
    network = AOTNetwork(VARIANTS["swinb_aotl"].network)
    state = {key: torch.full_like(value, 2) for key, value in network.encoder.state_dict().items() if not key.startswith("norm")}
    state |= {"head.weight": torch.zeros(3, 4), "layers.0.blocks.1.attn_mask": torch.zeros(2)}
    load_encoder(network, state)
    assert (network.encoder.patch_embed.proj.weight == 2).all()
    assert (network.encoder.norm0.weight == 1).all()


def test_a_random_encoder_has_norms_that_fit_the_data():
    images = clips(frames=2).normalised.flatten(0, 1)
    plain = start_network("aott", previous=None, init="random", seed=0)
    fitted = start_network("aott", previous=None, init="random", seed=0, sample=clips(frames=2))
    with torch.no_grad():
        spread = [network.encode_image(images).x16.std().item() for network in (plain, fitted)]
    assert 0.3 < spread[1] < 3
    assert not 0.3 < spread[0] < 3


def test_forms_grow_out_of_each_other(tmp_path):
    torch.manual_seed(0)
    base = AOTNetwork(VARIANTS["r50_deaotl"].network).state_dict()
    torch.save({"state_dict": {f"module.{key}": value for key, value in base.items()}}, tmp_path / "base.pth")
    placed = start_network("r50_deaotl_rmem", previous=tmp_path / "base.pth", init="imagenet", seed=0).state_dict()
    assert placed.keys() - base.keys() == {"cur_pos_emb", "mem_pos_emb"}
    assert all(torch.equal(placed[key], value) for key, value in base.items())
    vost = start_network("r50_deaotl_rmem_vost", previous=tmp_path / "base.pth", init="imagenet", seed=0).state_dict()
    assert vost[ID_BANK].shape[1] == 12
    assert torch.equal(vost[ID_BANK][:, :11], base[ID_BANK])
    assert vost[ID_BANK][:, 11].any()
    with pytest.raises(WeightsError, match=r"base\.pth"):
        start_network("r50_aotl", previous=tmp_path / "base.pth", init="imagenet", seed=0)
    with pytest.raises(WeightsError, match=r"none\.pth"):
        start_network("r50_aotl", previous=tmp_path / "none.pth", init="imagenet", seed=0)


def test_the_recurrent_form_grows_out_of_aot():
    torch.manual_seed(0)
    base = AOTNetwork(VARIANTS["r50_aotl"].network).state_dict()
    network = AOTNetwork(VARIANTS["r50_aotl_vost"].network)
    state = grown(base, network)
    added = {key for key in state if key not in base}
    assert all("Mem" in key or "norm4" in key for key in added)
    assert len(added) == 3 * 8
    assert not any("relative_emb" in key for key in state)


# --- runs ---


@pytest.fixture(scope="module")
def davis(tmp_path_factory):
    root = tmp_path_factory.mktemp("davis")
    write_davis(root, ClipPlan(clips=2, frames=8, height=48, width=64, objects=2))
    return root


def options(output, davis, **changes):
    values = {"steps": 2, "batch": 2, "frames": 3, "size": SIZE, "lr": 1e-3, "init": "random"}
    quiet = {"workers": 0, "progress": False, "log_every": 1}
    return TrainOptions(**{"output": output, "roots": {"davis2017": davis}, **values, **quiet, **changes})


def run(output, davis, *, model="deaott", stage="pre_dav", ranks=None, **changes):
    return train_stage(plan_stage(stage, model), options(output, davis, **changes), ranks or Ranks())


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_stage_trains_and_writes_its_files(davis, tmp_path):
    weights = run(tmp_path, davis)
    folder = tmp_path / "default_deaott" / "PRE_DAV"
    assert weights == folder / "ema_ckpt" / "save_step_2.pth"
    network, variant = load_network(weights)
    assert variant == "deaott"
    checkpoint = torch.load(folder / "checkpoint_2.pth")
    assert {"it", "network", "optimizer", "scaler", "ema", "random"} <= checkpoint.keys()
    assert len((folder / "log.jsonl").read_text().splitlines()) == 2
    untrained = start_network("deaott", previous=None, init="random", seed=0)
    frozen = [name for name, p in untrained.named_parameters() if not p.requires_grad]
    moved = checkpoint["network"]
    start_state = untrained.state_dict()
    assert frozen
    assert all(torch.equal(moved[name], start_state[name]) for name in frozen)
    assert not torch.equal(moved["decoder.conv_out.weight"], start_state["decoder.conv_out.weight"])
    assert network.state_dict().keys() == start_state.keys()
    before = weights.stat().st_mtime_ns
    assert run(tmp_path, davis) == weights
    assert weights.stat().st_mtime_ns == before, "nothing is left to do"
    weights.unlink()
    assert run(tmp_path, davis).is_file(), "killed between the two files"


def test_what_is_written_to_evaluate_is_the_average(davis, tmp_path, monkeypatch):
    monkeypatch.setattr(train_run, "average_of", lambda network, steps: Ema(network, 0.5))
    weights = run(tmp_path, davis, steps=1, batch=1)
    began = start_network("deaott", previous=None, init="random", seed=0).state_dict()
    ended = torch.load(weights.parent.parent / "checkpoint_1.pth")["network"]
    average = load_state(weights)
    for key in ("decoder.conv_out.weight", "LSTT.layers.0.linear_QV.weight"):
        torch.testing.assert_close(average[key], (began[key] + ended[key]) / 2)
        assert not torch.equal(began[key], ended[key])


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_run_that_stopped_goes_on_bit_for_bit(davis, tmp_path, precision):
    small = {"batch": 1, "frames": 2, "precision": precision}
    whole = run(tmp_path / "whole", davis, steps=3, **small)
    parts = {"steps": 3, "save_every": 2, **small}
    done = run(tmp_path / "parts", davis, **parts)
    assert same(load_state(done), load_state(whole))
    done.unlink()
    (done.parent.parent / "checkpoint_3.pth").unlink()
    torch.manual_seed(5)
    resumed = run(tmp_path / "parts", davis, **parts)
    assert same(load_state(resumed), load_state(whole))


@pytest.mark.parametrize("change", [{"lr": 1e-4}, {"frames": 2}, {"size": 49}, {"seed": 1}, {"limits": BankLimits()}, {"gap": 1}])
def test_other_settings_in_the_same_place_are_refused(davis, tmp_path, change):
    run(tmp_path, davis, steps=1, batch=1)
    with pytest.raises(UsageError, match="other settings"):
        run(tmp_path, davis, steps=1, batch=1, **change)


def test_a_stage_goes_on_from_the_one_before(davis, tmp_path):
    with pytest.raises(UsageError, match=r"PRE.*--pretrained_path"):
        run(tmp_path, davis, init=None)
    first = tmp_path / "default_deaott" / "PRE" / "ema_ckpt" / "save_step_7.pth"
    first.parent.mkdir(parents=True)
    torch.manual_seed(4)
    state = AOTNetwork(VARIANTS["deaott"].network).state_dict()
    torch.save({"state_dict": state}, first)
    done = torch.load(run(tmp_path, davis, init=None, steps=1).parent.parent / "checkpoint_1.pth")["network"]
    assert (done[ID_BANK] - state[ID_BANK]).abs().max() < 1e-3
    named = run(tmp_path, davis, name="other", init=None, steps=1, previous=first)
    assert named.parts[-4] == "other_deaott"


def test_batches_are_shared_by_ranks_and_accumulation(davis, tmp_path):
    with pytest.raises(UsageError, match="multiple"):
        run(tmp_path, davis, batch=3, accumulate=2)
    run(tmp_path, davis, batch=2, accumulate=2, steps=1)
    whole = run(tmp_path / "b", davis, batch=2, accumulate=1, steps=1)
    assert whole.is_file()


def test_input_sides():
    assert [input_side(size, align_corners=True) for size in (465, 464, 96, 33)] == [465, 449, 81, 33]
    assert [input_side(size, align_corners=False) for size in (465, 464, 97)] == [464, 448, 96]
    with pytest.raises(UsageError, match="33"):
        input_side(20, align_corners=True)


@pytest.mark.parametrize("model", ["aott", pytest.param("deaott", marks=pytest.mark.slow)])
def test_a_two_frame_clip_is_learned(model):
    torch.manual_seed(0)
    network = without_drops(start_network(model, previous=None, init="random", seed=0, sample=clips())).train()
    module = ClipPass(network, Objective(total_steps=10_000))
    stage = replace(STAGES["PRE_DAV"], lr=1e-3, min_lr=1e-3)
    optimizer = torch.optim.AdamW(
        [{key: group[key] for key in ("params", "weight_decay")} for group in parameter_groups_of(network, stage)], lr=1e-3
    )
    batch = clips(frames=2, objects=(2,))
    losses = []
    for step in range(16):
        optimizer.zero_grad()
        found = module(batch, step)
        found.loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        losses.append(found.loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_every_form_takes_a_step():
    for variant in ("r50_aotl_rmem_vost", "swinb_deaotl"):
        torch.manual_seed(0)
        network = AOTNetwork(VARIANTS[variant].network).train()
        batch = clips(frames=3, objects=(1,), size=input_side(49, align_corners=network.config.align_corners))
        batch.labels[1, 0, :3] = 255
        module = ClipPass(network, Objective(total_steps=100, gap=1, ignore=network.config.vost))
        found = module(batch, 0)
        found.loss.backward()
        unused = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
        assert all("KMem" in name or "mask_token" in name for name in unused), unused
        if network.config.vost:
            assert network.patch_wise_id_bank.weight.grad[:, 11].any(), "the ignore channel learns"


# --- processes ---

_WITHOUT_DROPS = """
import sys, torch
from rmem_deaot.model.drop_path import DropPath
DropPath.forward = lambda self, x: x
torch.nn.Dropout2d.forward = lambda self, x: x
import rmem_deaot.train.run
from rmem_deaot.cli import main

def rank():
    main(sys.argv[1:])
"""


def words(davis, output, *more):
    line = ["train", "--stage", "pre_dav", "--model", "deaott", "--davis_root", davis, "-o", output, "--init", "random"]
    line += ["--size", SIZE, "--seq_len", 3, "--num_workers", 0, "--device", "cpu", "--threads", 1, "--lr", "1e-3", *more]
    return [str(word) for word in line]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="ranks are forked")
def test_two_ranks_equal_one_process(davis, tmp_path, monkeypatch):
    more = ("--batch_size", 2, "--total_step", 2)
    run_ranks(_WITHOUT_DROPS, *words(davis, tmp_path / "two", *more))
    for kind in (DropPath, nn.Dropout2d):
        monkeypatch.setattr(kind, "forward", lambda _self, x: x)
    done = CliRunner().invoke(main, words(davis, tmp_path / "one", *more))
    assert done.exit_code == 0, done.output
    states = [torch.load(tmp_path / name / "default_deaott" / "PRE_DAV" / "checkpoint_2.pth") for name in ("one", "two")]
    one, two = states
    assert one["fingerprint"] == two["fingerprint"]
    moved = torch.cat([(two["network"][key] - value).abs().flatten() for key, value in one["network"].items()])
    assert (moved > 1e-5).float().mean() < 0.01, "Adam's first steps follow signs: gradients that are noise may turn"
    a, b = (state["optimizer"]["state"] for state in states)
    largest = max(state["exp_avg"].abs().max() for state in a.values())
    assert a.keys() == b.keys()
    assert all((a[i]["exp_avg"] - b[i]["exp_avg"]).abs().max() <= 1e-3 * largest for i in a)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals as on POSIX")
def test_a_killed_run_is_gone_on_with(davis, tmp_path):
    more = ("--batch_size", 1, "--total_step", 6, "--save-every", 1)
    line = [sys.executable, "-m", "rmem_deaot", *words(davis, tmp_path / "run", *more)]
    folder = tmp_path / "run" / "default_deaott" / "PRE_DAV"
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not (folder / "checkpoint_2.pth").is_file():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    for name in ("run", "whole"):  # in this process: importing torch twice more takes longer than all steps
        done = CliRunner().invoke(main, words(davis, tmp_path / name, *more))
        assert done.exit_code == 0, done.output
    file = "default_deaott/PRE_DAV/ema_ckpt/save_step_6.pth"
    assert same(load_state(tmp_path / "run" / file), load_state(tmp_path / "whole" / file))
