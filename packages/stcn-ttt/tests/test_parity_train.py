"""Offline training against the goldens: one step, the bootstrapped loss, the clip lists."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from stcn_ttt.model import STCN
from stcn_ttt.train.objective import TripletPass, Triplets, bootstrapped, overlap_counts
from stcn_ttt.train.video_data import read_subset
from vos_core.testing import GOLDENS, assert_within, golden_cases
from vos_core.training.losses import bootstrap_fraction, hardest_cross_entropy
from vos_core.training.optim import build_optimizer, parameter_groups

pytestmark = pytest.mark.parity
Read = Callable[[str], Mapping[str, np.ndarray]]
Build = Callable[[Mapping[str, Any]], STCN]


def strided(x: torch.Tensor, steps: list[int]) -> np.ndarray:
    return x.detach().numpy()[tuple(slice(None, None, step) for step in steps)]


def sampled(x: torch.Tensor, rule: Mapping[str, int]) -> np.ndarray:
    flat = x.detach().flatten().numpy()
    return flat[:: max(1, flat.size // rule["divisor"])][: rule["take"]]


def triplets(gold: Mapping[str, np.ndarray], stage: Mapping[str, Any]) -> Triplets:
    classes = torch.from_numpy(gold["cls_gt"].astype(np.int64))
    if stage["targets"] == "union_as_class_1":
        return Triplets(torch.from_numpy(gold["rgb"]), (classes > 0).long(), torch.ones(len(classes), 1))
    assert stage["targets"] == "as_stored"
    batch = Triplets(torch.from_numpy(gold["rgb"]), classes, torch.from_numpy(gold["selector"]))
    assert_within(batch.masks(0)[:, 0], gold["gt"][:, 0, 0], {"exact": True}, label="own mask")
    assert_within(batch.masks(0)[:, 1], gold["sec_gt"][:, 0, 0], {"exact": True}, label="other mask")
    return batch


@pytest.mark.parametrize("case", golden_cases("stcn-ttt", "offline_train"))
def test_steps(case: Any, golden_network: Build, golden_arrays: Read) -> None:
    gold, allowed, warm = golden_arrays(case["file"]), case["tolerance"], case["bootstrapped_ce"]
    assert case["fresh_weights_each_iteration"]
    assert case["batchnorm"] == "eval"
    for stage in case["stages"]:
        batch = triplets(gold, stage)
        network = copy.deepcopy(golden_network(stage["weights"]))
        assert network.single_object == stage["single_object"]
        predictions = TripletPass(network)(batch)
        counts = overlap_counts(predictions, batch)
        for iteration in case["iterations"]:
            key = f"{stage['prefix']}_{iteration}"
            share = bootstrap_fraction(iteration, start=warm["start_warm"], end=warm["end_warm"], kept=warm["top_p"])
            parts = [
                bootstrapped(one.logits, batch.classes[:, t + 1], batch.selector, share) for t, one in enumerate(predictions)
            ]
            found = {"loss_1": parts[0], "loss_2": parts[1], "total_loss": parts[0] + parts[1], "p": torch.tensor(share)}
            for name in stage["loss_names"]:
                assert_within(found[name].item(), gold[f"{key}/{name}"], allowed["losses"], label=f"{key}/{name}")
            for name in stage["count_names"]:
                assert_within(counts[name.split("/")[1]].item(), gold[f"{key}/{name}"], allowed["counts"], label=name)
            if iteration in case["grad_iterations"]:
                check_step(network, predictions, found["total_loss"], key, stage, case, gold)


def check_step(network: STCN, predictions: Any, loss: torch.Tensor, key: str, stage: Any, case: Any, gold: Any) -> None:
    allowed, settings = case["tolerance"], case["optimiser"]
    for t, name in enumerate(case["logits"]):
        found = strided(predictions[t].logits, case["logits_steps"])
        assert_within(found, gold[f"{key}/{name}"], allowed["logits"], label=name)
    for name in case["masks"]:
        frame = int(name.split("_")[1])
        found = strided(predictions[frame - 1].probs[:, 1:2], case["logits_steps"])
        assert_within(found, gold[f"{key}/{name}"], allowed["masks"], label=name)
    loss.backward(retain_graph=True)
    parameters = dict(network.named_parameters())
    before = {name: parameters[name].detach().clone() for name in stage["grad_names"]}
    assert settings["name"] == "Adam"
    groups = parameter_groups(network.named_parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"])
    build_optimizer("adam", groups, betas=tuple(settings["betas"]), eps=settings["eps"]).step()
    for name in stage["grad_names"]:
        if name in case["noise_grad_params"]:
            continue
        gradient = gold[f"{key}/grad/{name}"]
        assert_within(sampled(parameters[name].grad, case["flat_sample"]), gradient, allowed["grad"], label=f"grad {name}")  # type: ignore[arg-type]
        clear = np.abs(gradient) > allowed["delta"]["only_where_grad_over_max"] * np.abs(gradient).max()
        weight = sampled(before[name], case["flat_sample"])
        moved = sampled(parameters[name].detach() - before[name], case["flat_sample"])
        bound = allowed["delta"]["atol_in_lr"] * settings["lr"] + allowed["delta"]["atol_in_ulp_of_weight"] * np.spacing(
            np.abs(weight)
        )
        difference = np.abs(moved - gold[f"{key}/delta/{name}"])
        assert (difference <= bound)[clear].all(), f"delta {name}: {difference[clear].max()}"
    with torch.no_grad():
        for name, value in before.items():
            parameters[name].copy_(value)


@pytest.mark.parametrize("case", golden_cases("stcn-ttt", "bootstrapped_ce"))
def test_the_bootstrapped_loss(case: Any, golden_arrays: Read) -> None:
    gold = golden_arrays(case["file"])
    logits, target = torch.from_numpy(gold["logits"]), torch.from_numpy(gold["target"].astype(np.int64))
    rows = []
    for iteration in gold["its"].tolist():
        share = bootstrap_fraction(iteration, start=case["start_warm"], end=case["end_warm"], kept=case["top_p"])
        rows.append([hardest_cross_entropy(logits, target, fraction=share).mean().item(), share])
    assert_within(rows, gold["out"], case["tolerance"]["default"], label="loss and share")


@pytest.mark.parametrize("case", golden_cases("stcn-ttt", "train_subsets"))
def test_clip_lists_are_read(case: Any) -> None:
    for key, count in case["counts"].items():
        assert len(read_subset(GOLDENS / "stcn-ttt" / case["file"], key)) == count
