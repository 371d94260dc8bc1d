"""Training against the goldens: losses, whole steps, tables of rates, decay and averaging."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from rmem_goldens import sliced
from torch import nn

from rmem_deaot.config import VARIANTS
from rmem_deaot.model.network import AOTNetwork
from rmem_deaot.model.position import temporal_slots
from rmem_deaot.train.bank import BankLimits
from rmem_deaot.train.objective import ClipLoss, ClipPass, Objective
from rmem_deaot.train.recipe import average_of, parameter_groups_of, rate_schedule
from rmem_deaot.train.samples import ClipBatch
from rmem_deaot.train.stages import STAGES
from vos_core.testing import GOLDENS, golden_cases
from vos_core.training.losses import hardest_cross_entropy, soft_jaccard
from vos_core.training.optim import build_optimizer
from vos_core.training.schedule import apply_schedule

pytestmark = pytest.mark.parity
FOLDER = GOLDENS / "rmem-deaot"
Build = Callable[[Mapping[str, Any]], AOTNetwork]


def without_drops(network: nn.Module) -> nn.Module:
    network.train()
    for module in network.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    return network


def run_case(case: Mapping[str, Any], gold: Mapping[str, np.ndarray], build: Build) -> tuple[AOTNetwork, ClipPass, ClipLoss]:
    assert case["precision"] == "float32"
    assert case["st_skip"] == 1
    network = copy.deepcopy(build(case))
    assert network.config.align_corners == case["align_corners"]
    assert network.config.temporal_position == case["tpe"]
    if not case["random_drops"]:
        without_drops(network)
    images = torch.from_numpy(gold["frames"]).permute(0, 1, 4, 2, 3).contiguous()
    labels = torch.from_numpy(gold["labels"].astype(np.uint8))
    assert images.shape[:2] == (case["clip_frames"], case["batch"])
    weights, limits = case["loss"], None
    if case["restrict"]:
        rule = "relevance" if case["restrict_by_attention"] else "oldest"
        limits = BankLimits(case["former"], case["latter"], rule)
    objective = Objective(
        total_steps=case["total_steps"],
        gap=case["gap"],
        own_masks=case["use_prev_pred"],
        ignore=network.config.vost,
        ce_weight=weights["ce_weight"],
        jaccard_weight=weights["jaccard_weight"],
        kept=weights["topk_fraction"],
        mining_ratio=weights["hard_mining_ratio"],
        aux_weight=weights["aux_weight"],
        aux_ratio=weights["aux_ratio"],
        limits=limits,
    )
    module = ClipPass(network, objective)
    batch = ClipBatch(images, labels, tuple(case["obj_nums"]), torch.from_numpy(gold["perm"]).argmax(2))
    found = module(batch, case["step"])
    found.loss.backward()
    return network, module, found


def check_losses_and_norms(case: Any, gold: Any, network: AOTNetwork, found: ClipLoss) -> dict[str, float]:
    allowed = case["tolerance"]
    assert abs(found.loss.item() - float(gold["loss"])) <= allowed["loss_atol"]
    np.testing.assert_allclose(found.frame_losses.numpy(), gold["frame_losses"], rtol=0, atol=allowed["loss_atol"])
    norms = {
        name: -1.0 if p.grad is None else p.grad.double().norm().item()
        for name, p in network.named_parameters()
        if p.requires_grad
    }
    expected = dict(zip(gold["grad_names"].tolist(), gold["grad_norms"].tolist(), strict=True))
    assert norms.keys() == expected.keys()
    bad = {
        name: (norms[name], value)
        for name, value in expected.items()
        if (value == -1) != (norms[name] == -1)
        or abs(norms[name] - value) > allowed["grad_norm_atol"] + allowed["grad_norm_rtol"] * abs(value)
    }
    assert not bad
    return norms


@pytest.mark.parametrize("case", golden_cases("rmem-deaot", "train_loss"))
def test_clips_cost_what_they_must(case: Any, golden_network: Build) -> None:
    gold = np.load(FOLDER / case["file"])
    network, _, found = run_case(case, gold, golden_network)
    check_losses_and_norms(case, gold, network, found)
    for held in found.bank:
        assert list(held) == gold["bank"].tolist()


@pytest.mark.parametrize("case", golden_cases("rmem-deaot", "train_step"))
def test_a_step_moves_every_weight_as_it_must(case: Any, golden_network: Build) -> None:
    gold, allowed, settings = np.load(FOLDER / case["file"]), case["tolerance"], case["optimizer"]
    network, module, found = run_case(case, gold, golden_network)
    norms = check_losses_and_norms(case, gold, network, found)
    masks = torch.stack([module.masks(one, gold["frames"].shape[2:4]) for one in found.logits])
    for mine, expected in zip(sliced(case, "pred", masks), gold["pred"], strict=True):
        assert (mine == expected).mean() >= allowed["pred_equal"]
    total = float(np.sqrt(sum(norm**2 for norm in norms.values() if norm >= 0)))
    expected_total = float(gold["grad_total_norm"])
    assert abs(total - expected_total) <= allowed["grad_norm_atol"] + allowed["grad_norm_rtol"] * expected_total

    assert settings["name"] == "AdamW"
    assert settings["no_decay_1d"]
    stage = replace(
        STAGES["PRE_YTB_DAV"],
        steps=case["total_steps"],
        lr=settings["base_lr"],
        min_lr=settings["min_lr"],
        weight_decay=settings["weight_decay"],
        own_masks=bool(case["zero_lr_params"]),
    )
    groups = parameter_groups_of(network, stage, no_decay=settings["no_decay_names"], encoder_ratio=settings["encoder_lr_ratio"])
    optimizer = build_optimizer("adamw", groups, betas=tuple(settings["betas"]), eps=settings["eps"])
    schedule = rate_schedule(stage.steps, warm_up=settings["warm_up_ratio"], power=settings["power"])
    apply_schedule(optimizer, schedule, case["step"])
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    parameters = dict(network.named_parameters())
    for name, parameter in parameters.items():
        if any(part in name for part in case["zero_lr_params"]):
            assert rates[id(parameter)] == (0.0, 0.0)
    nn.utils.clip_grad_norm_([p for p in parameters.values() if p.grad is not None], settings["clip_grad_norm"])
    before = {name: parameters[name].detach().clone() for name in case["compared_params"]}
    optimizer.step()
    for name in case["compared_params"]:
        gradient, moved = gold[f"grad:{name}"], gold[f"delta:{name}"]
        delta = sliced(case, f"delta:{name}", parameters[name].detach() - before[name])
        rate = rates[id(parameters[name])][0]
        if gradient.size == 0:
            assert parameters[name].grad is None
            assert not moved.any()
            assert not delta.any()
            continue
        mine = sliced(case, f"grad:{name}", parameters[name].grad)
        largest = parameters[name].grad.abs().max().item()
        assert np.abs(mine - gradient).max() <= allowed["grad_rel_to_max"] * largest, name
        clear = np.abs(gradient) >= allowed["delta_skip_grad_below_rel"] * largest
        assert (np.abs(delta - moved) <= allowed["delta_abs_per_lr"] * rate)[clear].all(), name


@pytest.mark.parametrize("case", golden_cases("rmem-deaot", "losses"))
def test_losses(case: Any) -> None:
    gold, allowed, total = np.load(FOLDER / case["file"]), case["tolerance"], case["total"]
    samples = [
        (torch.from_numpy(gold[f"logit{i}"]).requires_grad_(), torch.from_numpy(gold[f"label{i}"].astype(np.int64)))
        for i in range(case["samples"])
    ]
    assert [logit.shape[1] for logit, _ in samples] == case["classes"]
    for row in gold["table"]:
        given = dict(zip(case["table_columns"], row.tolist(), strict=True))
        objective = Objective(
            total_steps=int(given["total_steps"]), kept=case["topk_fraction"], mining_ratio=case["hard_mining_ratio"]
        )
        for i, (logit, label) in enumerate(samples):
            label = label.view(1, *logit.shape[2:])
            entropy = hardest_cross_entropy(logit, label, fraction=objective.hardest(int(given["step"])), ignore=case["void"])
            assert abs(entropy.item() - given[f"ce{i}"]) <= allowed["loss_atol"]
            assert abs(soft_jaccard(logit, label, ignore=case["void"]).item() - given[f"jaccard{i}"]) <= allowed["loss_atol"]
    objective = Objective(
        total_steps=total["total_steps"],
        ce_weight=total["ce_weight"],
        jaccard_weight=total["jaccard_weight"],
        kept=case["topk_fraction"],
        mining_ratio=case["hard_mining_ratio"],
    )
    found = torch.cat(
        [
            objective.frame_loss(logit, label.view(1, *logit.shape[2:]), [classes - 1], total["step"])
            for (logit, label), classes in zip(samples, case["classes"], strict=True)
        ]
    )
    np.testing.assert_allclose(found.detach().numpy(), gold[total["array"]].reshape(-1), rtol=0, atol=allowed["loss_atol"])
    assert case["grad_of"] == "mean_over_samples_of_total"
    found.mean().backward()
    for i, (logit, _) in enumerate(samples):
        expected = gold[f"grad{i}"]
        assert np.abs(logit.grad.numpy() - expected).max() <= allowed["grad_rel_to_max"] * np.abs(expected).max()


@pytest.mark.parametrize("case", golden_cases("rmem-deaot", "tables"))
def test_tables(case: Any) -> None:
    """What of the tables belongs to training; sizes and gaps are checked with the segmenter."""
    table = json.loads((FOLDER / case["file"]).read_text())
    for key, decays in table.items():
        if key.startswith("weight_decay_by_name_"):
            network = AOTNetwork(VARIANTS[key.removeprefix("weight_decay_by_name_")].network)
            groups = parameter_groups_of(network, STAGES["PRE_YTB_DAV"])
            assert {name: group["weight_decay"] for group in groups for name in group["names"]} == decays
    stages = {"lr_main_100k": "PRE_YTB_DAV", "lr_vost_20k": "PRE_VOST", "lr_static_100k": "PRE"}
    for key, name in stages.items():
        stage, schedule = STAGES[name], rate_schedule(STAGES[name].steps)
        named = {"encoder.x": nn.Parameter(torch.ones(1)), "LSTT": nn.Parameter(torch.ones(1))}
        groups = parameter_groups_of(_Named(named), stage)
        optimizer = build_optimizer("adamw", groups)
        for step, rate, slow in table[key]:
            apply_schedule(optimizer, schedule, step)
            assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, slow], rel=1e-9)
    (key,) = [key for key in table if key.startswith("ema_values")]
    weight = nn.Linear(1, 1, bias=False)
    nn.init.constant_(weight.weight, 0.0)
    average = average_of(weight, 100_000)
    for n, expected in enumerate(table[key], start=1):
        nn.init.constant_(weight.weight, float(n))
        average.update(weight)
        assert average.average["weight"].item() == pytest.approx(expected, rel=1e-6)
    for frames, slots in table["temporal_slot_of_memory_position"].items():
        assert temporal_slots(int(frames)) == slots


class _Named(nn.Module):
    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self.found = parameters

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        return iter(self.found.items())
