"""Training: simulated prompts, losses against slow ones, parameter groups, runs that stop and go on, ranks, the average."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from train_toys import long_config, still_config, toy_config, toy_options, write_toy_clips

from sam2_rcms.model import SAM2
from sam2_rcms.train.config import LossConfig, OptimizerConfig, PromptConfig
from sam2_rcms.train.dataset import ClipBatch
from sam2_rcms.train.forward import ClipMemories, ClipPass, Memory, prepare_for_training
from sam2_rcms.train.losses import StepPrediction, clip_losses, sample_points, step_losses
from sam2_rcms.train.optim import training_groups
from sam2_rcms.train.picture import clip_pictures
from sam2_rcms.train.prompts import boxes_of, draw_correction, draw_plan, error_click, noisy_box
from sam2_rcms.train.run import _Recipe, fingerprint, start_network, train
from vos_core.errors import InterruptError, UsageError, VosError, WeightsError
from vos_core.training.distributed import Ranks
from vos_core.weights.load import load_state, read_checkpoint

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_toy_clips(tmp_path_factory.mktemp("clips"))


def square_masks(frames=4, objects=2, side=64):
    masks = torch.zeros(frames, objects, side, side, dtype=torch.bool)
    for t in range(frames):
        for o in range(objects):
            masks[t, o, 8 + 20 * o : 24 + 20 * o, 6 + 3 * t : 30 + 3 * t] = True
    return masks


def batch_of(masks, clips=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(clips, masks.shape[0], 3, *masks.shape[-2:], generator=generator)
    return ClipBatch(images, masks, torch.arange(masks.shape[1]) % clips)


# --- prompts ---


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(0, 10_000), st.floats(0, 1))
def test_plans_keep_the_rules(frames, seed, share):
    config = PromptConfig(prob_to_use_pt_input_for_train=share)
    plan = draw_plan(square_masks(frames), config, np.random.default_rng(seed))
    assert plan.conditioning[0] == 0
    assert len(set(plan.conditioning)) == len(plan.conditioning) <= 2
    assert sorted(plan.order(frames)) == list(range(frames))
    assert plan.order(frames)[: len(plan.conditioning)] == list(plan.conditioning)
    if plan.use_points:
        assert plan.first_clicks.keys() == set(plan.conditioning) <= plan.correct
        assert len(plan.correct) <= 2
    else:
        assert plan.correct == frozenset() == frozenset(plan.first_clicks)
    if frames == 1:
        assert plan.use_points
        assert plan.correct == {0}


def test_ranks_with_equal_generators_decide_alike():
    for seed in range(5):
        a, b = (draw_plan(square_masks(), PromptConfig(), np.random.default_rng(seed)) for _ in range(2))
        assert (a.use_points, a.conditioning, a.correct) == (b.use_points, b.conditioning, b.correct)


def test_boxes_hold_the_object_up_to_the_noise():
    masks = square_masks(1)[0]
    assert boxes_of(masks)[:, 0].tolist() == [[6, 8, 29, 23], [6, 28, 29, 43]]
    torch.manual_seed(0)
    for _ in range(20):
        found = noisy_box(masks)
        assert found.labels.tolist() == [[2, 3], [2, 3]]
        moved = (found.points.reshape(2, 4) - boxes_of(masks)[:, 0]).abs()
        assert (moved <= torch.tensor([2.3, 1.5, 2.3, 1.5]) + 1e-4).all()
    empty = noisy_box(torch.zeros(1, 64, 64, dtype=torch.bool)).points
    assert ((empty >= 0) & (empty <= 63)).all()


def test_clicks_fall_where_truth_and_prediction_differ():
    truth = square_masks(1)[0]
    predicted = truth.clone()
    predicted[0, 10:14] = False  # missed
    predicted[1, :4, :4] = True  # spurious
    torch.manual_seed(0)
    for _ in range(30):
        click = error_click(truth, predicted)
        for o in range(2):
            x, y = click.points[o, 0].int().tolist()
            assert truth[o, y, x] != predicted[o, y, x]
            assert bool(click.labels[o, 0]) == bool(truth[o, y, x])
        agreed = error_click(truth, truth)
        assert agreed.labels.tolist() == [[0], [0]]
        assert not any(truth[o, int(y), int(x)] for o, ((x, y),) in enumerate(agreed.points.tolist()))
    seen = {error_click(truth, predicted).labels.tolist()[0][0] for _ in range(30)}
    assert seen == {1}, "the first object has only missed pixels"


def test_some_clicks_ignore_the_prediction():
    truth = square_masks(1)[0]
    torch.manual_seed(0)
    config = PromptConfig(prob_to_sample_from_gt_for_train=1.0)
    rng = np.random.default_rng(0)
    assert draw_correction(truth, truth, config, rng).labels.tolist() == [[1], [1]]
    config = PromptConfig(prob_to_sample_from_gt_for_train=0.0)
    assert draw_correction(truth, truth, config, rng).labels.tolist() == [[0], [0]]


# --- the clip ---


def test_memories_are_chosen_as_in_training():
    memories = ClipMemories()
    for t in (0, 12):
        memories.conditioning[t] = Memory(torch.full((1, 1), float(t)), torch.full((1, 2), float(t)))
    for t in range(1, 10):
        memories.others[t] = Memory(torch.full((1, 1), float(t)), torch.full((1, 2), float(t)))
    maps, codes = memories.spatial(10)
    assert [int(one) for one in maps] == [0, 12, 4, 5, 6, 7, 8, 9]
    assert codes == [6, 6, 5, 4, 3, 2, 1, 0]
    pointers, distances = memories.pointers(10, 5)
    assert pointers[0, :, 0].tolist() == [0, 12, 9, 8, 7, 6]
    assert distances == [10, -2, 1, 2, 3, 4], "a later conditioning frame counts, with a negative distance"


def test_objects_of_several_clips_see_their_own_frames(small_network):
    masks = square_masks(3, 2)
    clip_pass = ClipPass(small_network, PromptConfig(prob_to_use_pt_input_for_train=0.0), scale=20, bias=-10)
    both = batch_of(masks, clips=2)
    with torch.no_grad():
        together = clip_pass(both, np.random.default_rng(1))
        for clip in range(2):
            alone = ClipBatch(both.images[clip : clip + 1], masks[:, clip : clip + 1], torch.zeros(1, dtype=torch.int64))
            found = clip_pass(alone, np.random.default_rng(1))
            for one, other in zip(together.low, found.low, strict=True):
                torch.testing.assert_close(one[clip : clip + 1], other, atol=2e-3, rtol=1e-3)


def test_corrected_frames_get_more_steps(small_network):
    torch.manual_seed(0)
    config = PromptConfig(prob_to_use_pt_input_for_train=1.0, num_correction_pt_per_frame=3)
    with torch.no_grad():
        output = ClipPass(small_network, config, scale=20, bias=-10)(batch_of(square_masks()), np.random.default_rng(3))
    for t, steps in enumerate(output.steps):
        assert len(steps) == (4 if t in output.plan.correct else 1)
    boxed = [output.clicks[t].labels[0, 0] == 2 for t in output.plan.conditioning]
    assert [output.clicks[t].points.shape[1] for t in output.plan.conditioning] == [5 if box else 4 for box in boxed]
    assert all(one.masks.shape[1] in (1, 3) for steps in output.steps for one in steps)


def test_a_frozen_encoder_rests_and_the_rest_learns():
    network = SAM2("tiny")
    prepare_for_training(network, freeze_image_encoder=True, activation_checkpointing=False)
    assert not any(module.training for module in network.image_encoder.modules())
    assert not any(parameter.requires_grad for parameter in network.image_encoder.parameters())
    assert network.memory_attention.training
    assert network.sam_mask_decoder.conv_s0.weight.requires_grad


def test_computing_twice_gives_the_same_gradients(small_network):
    state, gradients = small_network.state_dict(), []
    for checkpointing in (False, True):
        network = start_network(toy_config(Path(), dropout=0.0, drop_path_rate=0.0), toy_options(Path()))
        network.load_state_dict(state)
        prepare_for_training(network, freeze_image_encoder=False, activation_checkpointing=checkpointing)
        output = ClipPass(network, PromptConfig(prob_to_use_pt_input_for_train=0), scale=20, bias=-10)(
            batch_of(square_masks()), np.random.default_rng(0)
        )
        clip_losses(output.steps, square_masks(), LossConfig(), objects=2)["core_loss"].backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-3, atol=1e-4 * max(1.0, value.abs().max().item()))


# --- losses ---


def slow_losses(step, truth, config, objects):
    """The losses of one step, object by object and mask by mask, in float64."""
    sums = dict.fromkeys(("loss_mask", "loss_dice", "loss_iou", "loss_class"), 0.0)
    for o in range(truth.shape[0]):
        target, rows = truth[o].double().numpy(), []
        for m in range(step.masks.shape[1]):
            logit = step.masks[o, m].double().numpy()
            p = 1 / (1 + np.exp(-logit))
            at = np.where(target > 0, p, 1 - p)
            weight = np.where(target > 0, config.focal_alpha, 1 - config.focal_alpha)
            focal = (weight * (1 - at) ** config.focal_gamma * -np.log(at)).mean()
            dice = 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)
            found = logit > 0
            actual = (found & (target > 0)).sum() / max(1, (found | (target > 0)).sum())
            distance = abs(float(step.ious[o, m]) - actual)
            rows.append((focal, dice, distance if config.iou_use_l1_loss else distance**2))
        best = min(rows, key=lambda row: config.loss_mask * row[0] + config.loss_dice * row[1])
        present = target.any()
        if present:
            sums["loss_mask"] += best[0] / objects
            sums["loss_dice"] += best[1] / objects
            sums["loss_iou"] += (np.mean([row[2] for row in rows]) if config.supervise_all_iou else best[2]) / objects
        s = 1 / (1 + math.exp(-float(step.score[o, 0])))
        sums["loss_class"] += -math.log(s if present else 1 - s) / objects
    return sums


@pytest.mark.parametrize("changes", [{}, {"supervise_all_iou": False}, {"iou_use_l1_loss": False}, {"focal_gamma": 0.5}])
@pytest.mark.parametrize("masks", [1, 3])
def test_losses_equal_slow_ones(changes, masks):
    generator = torch.Generator().manual_seed(2)
    truth = square_masks(1, 3, 32)[0]
    truth[2] = False
    logits = 2 * torch.randn(3, masks, 32, 32, generator=generator)
    step = StepPrediction(logits, torch.rand(3, masks, generator=generator), torch.randn(3, 1, generator=generator))
    config = LossConfig(**changes)
    found = step_losses(step, truth[:, None].float(), config, objects=2.5)
    for name, value in slow_losses(step, truth, config, 2.5).items():
        assert found[name].item() == pytest.approx(value, rel=1e-4), name


def test_losses_are_summed_over_frames_and_steps():
    truth = square_masks(2, 1, 32)
    step = StepPrediction(torch.randn(1, 3, 32, 32), torch.rand(1, 3), torch.randn(1, 1))
    config = LossConfig()
    one = [step_losses(step, truth[t][:, None].float(), config, objects=1) for t in range(2)]
    whole = clip_losses([[step], [step, step]], truth, config, objects=1)
    for name in ("loss_mask", "loss_dice", "loss_iou", "loss_class"):
        torch.testing.assert_close(whole[name], one[0][name] + 2 * one[1][name])
    total = 20 * whole["loss_mask"] + whole["loss_dice"] + whole["loss_iou"] + whole["loss_class"]
    torch.testing.assert_close(whole["core_loss"], total)


def test_scores_may_go_unsupervised():
    truth = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    step = StepPrediction(torch.randn(1, 1, 16, 16), torch.rand(1, 1), torch.randn(1, 1))
    found = clip_losses([[step]], truth, LossConfig(pred_obj_scores=False), objects=1)
    assert found["loss_class"] == 0
    assert found["loss_mask"] > 0, "without scores absent objects are supervised like all"


def test_losses_may_be_computed_at_drawn_points():
    torch.manual_seed(0)
    config = LossConfig(point_samples=64, oversample_ratio=10)
    edge = torch.full((2, 1, 32, 32), 6.0)
    edge[..., 16:] = -6.0
    edge[..., 15:17] = 0.1
    at, there = sample_points(edge, (edge > 0).float(), config)
    assert at.shape == there.shape == (2, 1, 64)
    assert (at.abs() < 3).float().mean() > 0.5, "most points lie where the mask is uncertain"
    uniform, _ = sample_points(edge, edge, LossConfig(point_samples=64, importance_sample_ratio=0.0))
    assert (uniform.abs() < 3).float().mean() < 0.4
    truth = (edge[:, :, None] > 0)[:, 0]
    step = StepPrediction(edge.requires_grad_(), torch.rand(2, 1), torch.randn(2, 1))
    found = step_losses(step, truth[:, 0, None].float(), config, objects=2)
    found["loss_mask"].backward()
    assert edge.grad.abs().sum() > 0
    assert 0 < found["loss_dice"] < 1


# --- optimiser ---


def test_rates_fall_from_block_to_block():
    with torch.device("meta"):
        network = SAM2("tiny")
    config = OptimizerConfig()
    rates = {name: group["initial_lr"] for group in training_groups(network, config) for name in group["names"]}
    decays = {name: group["weight_decay"] for group in training_groups(network, config) for name in group["names"]}
    assert rates["image_encoder.trunk.blocks.11.mlp.layers.0.weight"] == pytest.approx(3e-6 * 0.9)
    assert rates["image_encoder.trunk.blocks.0.attn.qkv.weight"] == pytest.approx(3e-6 * 0.9**12)
    assert rates["image_encoder.trunk.patch_embed.proj.weight"] == pytest.approx(3e-6 * 0.9**13)
    assert rates["image_encoder.trunk.pos_embed_window"] == rates["image_encoder.neck.convs.0.conv.weight"] == 3e-6
    assert rates["memory_attention.norm.weight"] == rates["maskmem_tpos_enc"] == 5e-6
    assert decays["memory_attention.norm.weight"] == decays["memory_encoder.out_proj.bias"] == 0
    assert decays["memory_encoder.fuser.layers.0.norm.weight"] == decays["no_mem_embed"] == 0.1, "LayerNorm2d decays"


# --- runs ---


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """The folder of a run that nothing stopped; leave it unchanged."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run") / "whole"
    train(long_config(clips), toy_options(folder), Ranks())
    return folder


def test_a_run_writes_its_files_and_goes_on_bit_for_bit(clips, whole, tmp_path):
    config, final = long_config(clips), whole / "model.pt"
    assert read_checkpoint(final).keys() == {"model"}
    assert sorted(path.name for path in whole.iterdir()) == [
        "checkpoint_2.pth",
        "checkpoint_4.pth",
        "config.yaml",
        "log.jsonl",
        "model.pt",
        "model_ema.pt",
    ]
    state = torch.load(whole / "checkpoint_4.pth")
    assert {"it", "network", "optimizer", "scheduler", "scaler", "ema", "random", "fingerprint"} <= state.keys()
    average, last = load_state(whole / "model_ema.pt"), load_state(final)
    assert average.keys() == last.keys()
    assert not same(average, last)
    stamp = final.stat().st_mtime_ns
    assert train(config, toy_options(whole), Ranks()) == final
    assert final.stat().st_mtime_ns == stamp, "a finished run is left alone"

    torch.manual_seed(99)
    np.random.seed(99)
    elsewhere = toy_options(tmp_path, resume_from=whole / "checkpoint_2.pth")
    resumed = train(config, elsewhere, Ranks())
    assert same(load_state(resumed), last)
    assert same(load_state(resumed.parent / "model_ema.pt"), average)


def test_the_loss_falls(clips, tmp_path):
    prompts = PromptConfig(prob_to_use_pt_input_for_train=0.0, num_init_cond_frames_for_train=1)
    optimizer = OptimizerConfig(base_lr=3e-4, vision_lr=3e-4, clip_norm=10.0)
    config = toy_config(clips, steps=24, save_every=24, prompts=prompts, optimizer=optimizer, dropout=0.0, drop_path_rate=0.0)
    train(config, toy_options(tmp_path), Ranks())
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 24
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])


@pytest.mark.long
def test_a_reduced_model_beats_copy_on_clips_it_has_not_seen(tmp_path):
    script = HERE.parents[2] / "benchmarks" / "sam2_training.py"
    if not script.is_file():
        pytest.skip("not in a checkout")
    finish(start(script, "--output", tmp_path), seconds=1500)
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["scores"]["sam2-rcms"]["J&F"] > record["scores"]["copy"]["J&F"] + 0.05
    assert record["losses"][-1]["loss"] < 0.05 * record["losses"][0]["loss"]
    assert (tmp_path / "page.html").is_file()


def test_a_second_stage_starts_from_the_first(clips, tmp_path):
    first = train(toy_config(clips, steps=1), toy_options(tmp_path / "one"), Ranks())
    config = toy_config(clips, steps=1, freeze_image_encoder=True, activation_checkpointing=True)
    second = load_state(train(config, toy_options(tmp_path / "two", weights=first), Ranks()))
    before = load_state(first)
    moved = {name for name in before if not torch.equal(before[name], second[name])}
    assert moved
    assert not any(name.startswith("image_encoder.") for name in moved)


def test_start_weights_must_fit(clips, tmp_path):
    torch.save({"model": {"a": torch.zeros(2)}}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"other\.pt"):
        train(toy_config(clips), toy_options(tmp_path / "x", weights=tmp_path / "other.pt"), Ranks())


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 2},
        {"steps": 5},
        {"seed": 4},
        {"freeze_image_encoder": True},
        {"optimizer": OptimizerConfig(base_lr=1e-4)},
        {"prompts": PromptConfig(num_correction_pt_per_frame=1)},
        {"loss": LossConfig(loss_dice=2)},
    ],
)
def test_what_changes_a_result_is_in_the_fingerprint(change, clips):
    one, other = toy_config(clips), toy_config(clips, **change)
    assert fingerprint(one, world=1, steps=one.steps) != fingerprint(other, world=1, steps=other.steps)


@pytest.mark.parametrize("change", [{"workers": 3}, {"save_every": 7}, {"log_every": 2}, {"activation_checkpointing": True}])
def test_what_does_not_is_not(change, clips):
    one, other = toy_config(clips), toy_config(clips, **change)
    assert fingerprint(one, world=1, steps=3) == fingerprint(other, world=1, steps=3)
    split = toy_config(clips, batch_size=1, accumulate=2)
    whole = toy_config(clips, batch_size=2)
    assert fingerprint(split, world=1, steps=3) == fingerprint(whole, world=1, steps=3) == fingerprint(one, world=2, steps=3)


def test_other_settings_in_the_same_folder_are_refused(clips, tmp_path):
    train(toy_config(clips, steps=1), toy_options(tmp_path), Ranks())
    with pytest.raises(UsageError, match="other settings"):
        train(toy_config(clips, steps=1, seed=5), toy_options(tmp_path), Ranks())


def test_a_loss_that_is_not_finite_stops_the_run(clips, tmp_path):
    with pytest.raises(VosError, match="step 1"):
        train(toy_config(clips, optimizer=OptimizerConfig(base_lr=1e30, vision_lr=1e30)), toy_options(tmp_path), Ranks())


def test_bf16_steps_stay_near_fp32_ones(small_network, clips):
    values = {}
    for precision in ("fp32", "bf16"):
        output = None
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            clip_pass = ClipPass(small_network, PromptConfig(prob_to_use_pt_input_for_train=0), scale=20, bias=-10)
            output = clip_pass(batch_of(square_masks()), np.random.default_rng(0))
        values[precision] = clip_losses(output.steps, square_masks(), LossConfig(), objects=2)["core_loss"].item()
    assert values["bf16"] == pytest.approx(values["fp32"], rel=0.05)


def test_pictures_show_truth_and_prediction(small_network):
    batch = batch_of(square_masks())
    with torch.no_grad():
        clip_pass = ClipPass(small_network, PromptConfig(prob_to_use_pt_input_for_train=0), scale=20, bias=-10)
        output = clip_pass(batch, np.random.default_rng(0)).detached()
    (picture,) = clip_pictures(batch, output).values()
    assert (picture.shape, picture.dtype) == ((3 * 32, 4 * 32, 3), np.uint8)
    plain, truth, found = picture.reshape(3, 32, 4 * 32, 3).astype(int)
    where = batch.masks[:, 0, ::2, ::2].permute(1, 0, 2).reshape(32, 4 * 32).numpy()
    assert (truth[where][:, 1] >= 127).all()
    assert (truth[~where] == plain[~where]).all()
    assert (found[where][:, 0] >= 127).mean() > 0.2, "the prompted frame at least"


def test_micro_batches_decide_apart_and_steps_again_alike(clips):
    seen = []

    def model(batch, rng, objects):
        seen.append((rng.random(), objects))
        return {name: torch.zeros(()) for name in ("core_loss", "loss_mask", "loss_dice", "loss_iou", "loss_class")}

    recipe = _Recipe(toy_config(clips), None, Ranks())
    for step in (4, 4, 5, 5):
        recipe(model, batch_of(square_masks()), step)
    again = _Recipe(toy_config(clips), None, Ranks())
    again(model, batch_of(square_masks()), 5)
    draws = [draw for draw, _ in seen]
    assert len(set(draws[:4])) == 4
    assert draws[4] == draws[2], "a resumed run decides what the first one did"
    assert {objects for _, objects in seen} == {2.0}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def finish(process, seconds=300):
    """Wait for a process; fail with what it printed unless it ended well."""
    printed, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, printed.decode()


def start(*words, **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE), **variables}
    return subprocess.Popen([sys.executable, *map(str, words)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(clips, whole, tmp_path):
    killed = start(HERE / "train_toys.py", clips, tmp_path, 1)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("checkpoint_*.pth")) and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.kill()
    killed.communicate(timeout=60)
    goes_on(clips, tmp_path, whole)


def test_a_terminated_run_saves_its_step_and_goes_on_bit_for_bit(clips, whole, tmp_path, monkeypatch):
    call = _Recipe.__call__

    def interrupted(self, model, batch, step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return call(self, model, batch, step)

    with monkeypatch.context() as patch, pytest.raises(InterruptError, match="saved at step 3"):
        patch.setattr(_Recipe, "__call__", interrupted)
        train(long_config(clips), toy_options(tmp_path), Ranks())
    goes_on(clips, tmp_path, whole)


def goes_on(clips, folder, whole):
    """The run in `folder`, cut short, must end as the one in `whole`."""
    assert not (folder / "model.pt").exists()
    train(long_config(clips), toy_options(folder), Ranks())
    for name in ("model.pt", "model_ema.pt"):
        assert same(load_state(folder / name), load_state(whole / name))
    steps = re.findall(r'"step": (\d+)', (folder / "log.jsonl").read_text())
    assert steps == list("1234"), "no step is told twice"


@pytest.mark.slow
def test_two_ranks_equal_one_process_with_twice_the_batch(clips, tmp_path):
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = start(HERE / "train_toys.py", clips, tmp_path / "two", 2, **where)
    train(still_config(clips, 2), toy_options(tmp_path / "one"), Ranks())
    finish(ranks)
    one, two = (torch.load(tmp_path / name / "checkpoint_1.pth") for name in ("one", "two"))
    assert one["fingerprint"] == two["fingerprint"]
    assert len(two["random"]) == 2
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("one", "two")]
    assert len(logs[1].splitlines()) == 1, "one rank writes"
    assert all(torch.isfinite(value).all() for value in two["network"].values())
    # AdamW's first step is nearly the sign of the gradient, whatever its size: its first moment tells whether gradients agree.
    moments = [[state["exp_avg"] for _, state in sorted(run["optimizer"]["state"].items())] for run in (one, two)]
    assert len(moments[0]) == len(moments[1]) > 50
    largest = max(float(moment.abs().max()) for moment in moments[0])
    for single, both in zip(*moments, strict=True):
        bound = 1e-3 * float(single.abs().max()) + 1e-6 * largest
        assert float((single - both).abs().max()) <= bound
