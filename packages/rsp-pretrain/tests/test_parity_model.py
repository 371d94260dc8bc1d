"""Keys, one pass, two optimiser steps, the schedule and the start values against the goldens."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from rsp_pretrain.model import FACTORIES, Draws, Prediction, build_backbone, build_rsp
from rsp_pretrain.train.published import saved_epochs
from rsp_pretrain.train.schedule import learning_rate, optimizer_groups
from vos_core.testing import assert_within, golden_cases
from vos_core.training.optim import build_optimizer

pytestmark = pytest.mark.parity
MEAN, STD = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
LOSSES = {
    "total": "loss",
    "post": "loss_post",
    "prior": "loss_prior",
    "kl_term": "kl_term",
    "kl_value": "kl_value",
    "mae": "loss_mae",
}


def allowed(tolerance: Mapping[str, Any]) -> Mapping[str, Any]:
    """The goldens' rule for shares bounds nothing outside the share."""
    return {"max_abs": np.inf, **tolerance} if "share" in tolerance else tolerance


def images(array: np.ndarray, rows: list[int]) -> torch.Tensor:
    return (torch.from_numpy(array[rows]).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def random_numbers(rng: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
    stream, found = np.random.RandomState(seed), {}
    for draw in rng["draws"]:
        shape = tuple(draw["shape"])
        call = getattr(stream, draw["call"])
        values = call(draw["low"], draw["high"], shape) if draw["call"] == "randint" else call(shape)
        found[draw["name"]] = values.astype(draw["dtype"])
    return found


def stepped(x: torch.Tensor | np.ndarray, steps: list[int] | None) -> np.ndarray:
    array = x.detach().numpy() if isinstance(x, torch.Tensor) else x
    return array[tuple(slice(None, None, step) for step in steps)] if steps else array


def named_losses(out: Prediction, names: list[str]) -> list[float]:
    return [float(getattr(out, LOSSES[name]).detach()) for name in names]


@pytest.mark.parametrize("case", golden_cases("rsp-pretrain", "keys"))
def test_keys(case: Any, golden_json: Any) -> None:
    with torch.device("meta"):
        if case["model"] == "rsp":
            network = build_rsp(case["variant"])
        else:
            assert case["num_classes"] == 0
            network = build_backbone(case["backbone"], patch=case["patch_size"])
    found = {key: [list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in network.state_dict().items()}
    expected = golden_json(case["file"])
    assert found == expected
    if case["order_matters"]:
        assert list(found) == list(expected)


@pytest.mark.parametrize("case", golden_cases("rsp-pretrain", "checkpoint_layout"))
def test_checkpoint_layout(case: Any, golden_json: Any) -> None:
    gold = golden_json(case["file"])
    with torch.device("meta"):
        network = build_rsp(case["variant"])
    groups = optimizer_groups(network.named_parameters(), lr=1e-3, weight_decay=case["optimiser"]["weight_decay"])
    assert [group["names"] for group in groups] == [group["names"] for group in gold["param_groups"]]
    assert [group["weight_decay"] for group in groups] == [group["weight_decay"] for group in gold["param_groups"]]
    saved = case["saved_epochs"]
    epochs = saved["epochs"] // saved["repeated_sampling"]
    assert saved_epochs(epochs, every=saved["every"], last=saved["last"]) == gold[saved["field"]]


@pytest.mark.parametrize("case", golden_cases("rsp-pretrain", "pretrain_forward"))
def test_forward(case: Any, seeded_rsp: Any, golden_arrays: Any) -> None:
    gold, within, rows = golden_arrays(case["file"]), case["tolerance"], case["inputs"]["rows"]
    inputs = golden_arrays(case["inputs"]["file"])
    model = seeded_rsp(case["variant"], case["seed"], case["options"], case["image_size"])
    assert model.patch == case["patch_size"]
    model.train(case["mode"] == "train")
    drawn = random_numbers(case["rng"], case["rng"]["seed"])
    for name, probe in case["probe"].items():
        assert_within(stepped(drawn[name], probe["steps"]), gold[probe["array"]], within[probe["array"]], label=name)
    drawn |= {name: gold[name].astype(np.int64) for name in case["given"]}
    draws = Draws(*(torch.from_numpy(drawn[name]) for name in ("noise", "post_idx", "prior_idx", "mask_noise")))
    with torch.inference_mode():
        out = model(images(inputs["u_src"], rows), images(inputs["u_tgt"], rows), draws)
    model.eval()
    assert_within(named_losses(out, case["loss_names"]), gold["losses"], within["losses"], label="losses")
    whole = {
        "src_h": out.source,
        "tgt_h": out.target,
        "img_h": out.visible,
        "pred_post": out.post,
        "pred_prior": out.prior,
        "pred_mae": out.mae,
        "post_logits": out.post_logits,
        "prior_logits": out.prior_logits,
        "mask": out.mask,
        "ids_restore": out.restore,
    }
    for name, value in whole.items():
        assert_within(stepped(value, case["steps"].get(name)), gold[name], within[name], label=name)
        if f"{name}_stat" in within:
            figures = [value.mean().item(), value.std().item(), value.abs().max().item()]
            assert_within(figures, gold[f"{name}_stat"], within[f"{name}_stat"], label=f"{name}_stat")


@pytest.mark.parametrize("case", golden_cases("rsp-pretrain", "train_step"))
def test_train_steps(case: Any, seeded_rsp: Any, golden_arrays: Any) -> None:
    gold, within, rows = golden_arrays(case["file"]), case["tolerance"], case["inputs"]["rows"]
    inputs = golden_arrays(case["inputs"]["file"])
    present, future = (images(inputs[name], rows) for name in ("u_src", "u_tgt"))
    model = copy.deepcopy(seeded_rsp(case["variant"], case["seed"], case["options"], case["image_size"]))
    model.train(case["mode"] == "train")
    assert model.patch == case["patch_size"]
    before = {key: value.detach().clone() for key, value in model.named_parameters() if key in case["unchanged_keys"]}
    settings = case["optimiser"]
    assert (settings["name"], settings["amp"], settings["clip_grad"], settings["weight_decay_no_decay_group"]) == (
        "AdamW",
        False,
        None,
        0.0,
    )
    lr = case["schedule"]["lr"]
    groups = optimizer_groups(model.named_parameters(), lr=lr, weight_decay=settings["weight_decay"])
    assert_within(len(groups[0]["params"]), gold["n_no_decay"], within["n_no_decay"], label="no decay")
    assert_within(len(groups[1]["params"]), gold["n_decay"], within["n_decay"], label="decay")
    optimizer = build_optimizer("adamw", groups, betas=tuple(settings["betas"]), eps=settings["eps"])
    losses, rates, norms = [], [], []
    parameters = dict(model.named_parameters())

    def taken(value: torch.Tensor) -> np.ndarray:
        flat = value.detach().flatten().numpy()
        return flat[:: max(1, flat.size // case["slice"]["divisor"])][: case["slice"]["take"]]

    for micro in case["micro_batches"]:
        drawn = random_numbers(case["rng"], case["rng"]["seed_base"] + micro["index"])
        draws = Draws(*(torch.from_numpy(drawn[name]) for name in ("noise", "post_idx", "prior_idx", "mask_noise")))
        step = micro["optimizer_step"]
        with torch.set_grad_enabled(step is not None or case["final_forward"]["grad"]):
            out = model(present, future, draws)
        losses.append(named_losses(out, case["loss_names"]))
        if step is None:
            continue
        (out.loss / micro["loss_divided_by"]).backward()
        if (micro["index"] + 1) % case["accum_iter"]:
            continue
        rate = learning_rate(case["epochs_at_step"][step], **case["schedule"])
        rates.append(rate)
        for group in optimizer.param_groups:
            group["lr"] = rate
        grads = {name: value.grad for name, value in parameters.items() if value.grad is not None}
        norms.append(torch.stack([grad.norm() for grad in grads.values()]).norm().item())
        if step == case["grad_step"]:
            names = gold["names"].tolist()
            assert_within([grads[name].norm().item() for name in names], gold["grad_norms"], within["grad_norms"], label="norms")
            for key in case["grad_keys"]:
                found, bound = taken(grads[key]), gold[f"grad/{key}"]
                assert_within(found, bound, within["grad"], label=f"grad/{key}")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert_within(losses, gold["losses"], within["losses"], label="losses")
    assert_within(rates, gold["lrs"], within["lrs"], label="rates")
    assert_within(norms, gold["total_grad_norm"], within["total_grad_norm"], label="total norm")
    found = np.concatenate([taken(parameters[key]) for key in case["after_keys"]])
    expected = np.concatenate([gold[f"after/{key}"] for key in case["after_keys"]])
    bound = {**within["after"], "max_abs": within["after"]["outlier_atol_in_lr"] * max(rates)}
    assert_within(found, expected, bound, label="after")
    for key, value in before.items():
        assert_within(parameters[key].detach(), value, within["unchanged"], label=key)


@pytest.mark.parametrize("case", golden_cases("rsp-pretrain", "lr_schedule"))
def test_schedule(case: Any, golden_arrays: Any) -> None:
    gold = golden_arrays(case["file"])
    for item in case["items"]:
        rule = {name: item[name] for name in ("lr", "min_lr", "warmup_epochs", "epochs")}
        found = [learning_rate(float(epoch), **rule) for epoch in gold[f"{item['key']}/epoch"]]
        assert_within(found, gold[f"{item['key']}/lr"], case["tolerance"]["lr"], label=item["key"])


@pytest.mark.parametrize("case", golden_cases("rsp-pretrain", "init"))
def test_start_values(case: Any, golden_arrays: Any) -> None:
    gold, within = golden_arrays(case["file"]), case["tolerance"]
    for item in case["items"]:
        torch.manual_seed(case["torch_seed"])
        with torch.device("cpu" if item["statistics"] else "meta"):
            model = FACTORIES[item["variant"]]()
        state = model.state_dict()
        for name in ("pos_embed", "decoder_pos_embed"):
            table = state[name][0]
            if table.is_meta:  # tables do not come from the generator, so they exist without the rest of the network
                from rsp_pretrain.model.position import sincos_table

                table = sincos_table(table.shape[1], round((table.shape[0] - 1) ** 0.5))[0]
            assert_within(stepped(table, case["steps"][name]), gold[f"{item['key']}/{name}"], within[name], label=name)
        if not item["statistics"]:
            continue
        names = gold[f"{item['key']}/init_keys"].tolist()
        assert list(state) == names
        for name, (mean, std, largest) in zip(names, gold[f"{item['key']}/init_mean_std_absmax"], strict=True):
            value = state[name].double()
            if std == 0:  # constants
                assert_within(value, np.full(value.shape, mean), {"exact": True}, label=name)
                continue
            bound = within["std"] if value.numel() >= within["std"]["min_numel"] else within["std_small"]
            assert_within(value.std(correction=0), std, {key: bound[key] for key in ("rtol", "atol")}, label=f"std of {name}")
            if value.ndim >= 2 and "pos_embed" not in name and "token" not in name:
                fan = sum(value.flatten(1).shape)
                assert value.abs().max() <= (6 / fan) ** 0.5 * (1 + 1e-6), name
                assert abs(largest) <= (6 / fan) ** 0.5 * (1 + 1e-6), name
