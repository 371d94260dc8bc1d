"""Training against the goldens: losses, gradients and updates of two steps, parameter groups over the schedule, the scorer."""

from __future__ import annotations

import copy
import json
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from sam2_cases import FOLDER, case_frames, check, cut, golden_arrays, golden_network, normalised, same_frames

from sam2_rcms.config import TRUNKS
from sam2_rcms.model import SAM2
from sam2_rcms.train.config import LossConfig, OptimizerConfig, PromptConfig
from sam2_rcms.train.dataset import ClipBatch
from sam2_rcms.train.forward import ClipPass, prepare_for_training
from sam2_rcms.train.losses import clip_losses
from sam2_rcms.train.optim import training_groups, training_optimizer, training_schedule
from vos_core.testing import golden_cases
from vos_core.training.schedule import apply_schedule

pytestmark = pytest.mark.parity
STEPS = 1_000_000_000
"""Resolution with which a golden's `where` is turned into a step."""


def optimizer_config(values: Any) -> OptimizerConfig:
    """The optimiser of a case; rules that are not options must be the published ones."""
    assert (values["name"], values["schedule"]) == ("AdamW", "cosine")
    assert (values["vision_pattern"], values["layer_decay_prefix"]) == ("image_encoder.*", "image_encoder.trunk")
    assert (values["no_decay_names"], values["no_decay_modules"]) == (["*bias*"], ["torch.nn.LayerNorm"])
    assert values["layer_decay_overrides"] == {"*pos_embed*": 1.0}
    assert values.get("grad_clip_type", 2) == 2
    names = ("betas", "eps", "base_lr", "vision_lr", "end_factor", "weight_decay", "layer_decay")
    return OptimizerConfig(**{name: values[name] for name in names}, clip_norm=values.get("grad_clip_norm"))


def loss_config(values: Any) -> LossConfig:
    """The losses of a case."""
    rest = {key: value for key, value in values.items() if key != "weight_dict"}
    return LossConfig(**values["weight_dict"], **rest)


def training_network(case: Any) -> SAM2:
    """A fresh network of a case in training mode."""
    model = case["model"]
    assert model["dropout"] == 0
    state = golden_network(case).state_dict()
    trunk = TRUNKS[case["variant"]].model_copy(update={"drop_path_rate": model["drop_path_rate"]})
    network = SAM2(case["variant"], trunk=trunk, dropout=model["dropout"])
    network.load_state_dict(copy.deepcopy(state), strict=True)
    prepare_for_training(network, freeze_image_encoder=model["freeze_image_encoder"], activation_checkpointing=False)
    return network


def sampled(x: torch.Tensor, rule: Any) -> np.ndarray:
    """The entries of a tensor that a golden holds."""
    assert rule["flatten"]
    assert rule["make_odd"]
    flat = x.detach().flatten().numpy()
    return flat[:: max(1, flat.size // rule["divisor"]) | 1][: rule["first"]]


@pytest.mark.parametrize("case", golden_cases("sam2-rcms", "train_step"))
def test_steps(case: Any) -> None:
    gold, allowed = golden_arrays(case["file"]), case["tol"]
    frames = case_frames(case)
    if not same_frames(case, frames):
        pytest.skip("another JPEG decoder")
    shape = gold["mask_shape"].tolist()
    masks = torch.from_numpy(np.unpackbits(gold["masks"])[: np.prod(shape)].reshape(shape)).bool()
    batch = ClipBatch(normalised(frames)[None], masks, torch.zeros(shape[1], dtype=torch.int64))
    network, model = training_network(case), case["model"]
    options = optimizer_config(case["optimizer"])
    optimizer, schedule = training_optimizer(network, options), training_schedule(options, steps=STEPS)
    prompts = PromptConfig(**{key: value for key, value in model.items() if key in PromptConfig.model_fields})
    clip_pass = ClipPass(network, prompts, scale=model["sigmoid_scale_for_mem_enc"], bias=model["sigmoid_bias_for_mem_enc"])
    losses = loss_config(case["loss"])
    assert not case["random"]["reseed_each_step"]
    torch.manual_seed(case["random"]["torch_seed"])
    rng = np.random.default_rng(case["random"]["numpy_default_rng_seed"])
    for number, step in enumerate(case["steps"]):
        optimizer.zero_grad(set_to_none=True)
        output = clip_pass(batch, rng)
        found = clip_losses(output.steps, masks, losses, objects=max(1, shape[1]))
        found["core_loss"].backward()
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        found["gradnorm"] = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
        if number == 0:
            check_outputs(case, gold, output)
            check_gradients(case, gold, network)
        for name in step["names"]:
            value = found[name].item()
            assert np.isfinite(value), name
            if step["compare"] == "values":
                rule = allowed["gradnorm" if name == "gradnorm" else "losses"][number]
                label = step["prefix"] + (name if name in ("core_loss", "gradnorm") else f"loss_{name.removeprefix('loss_')}")
                check(value, gold[label], {"loss": rule}, "loss", label=f"{label} of step {number}")
        apply_schedule(optimizer, schedule, round(step["where"] * STEPS))
        before = {key: value.detach().clone() for key, value in network.named_parameters() if key in case["delta_keys"]}
        if number == 0:
            take_over_faint_gradients(
                case, gold, network, clip=options.clip_norm / found["gradnorm"].item() if options.clip_norm else 1
            )
        if options.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(network.parameters(), options.clip_norm)
        optimizer.step()
        if number == 0:
            check_updates(case, gold, network, before)


def check_outputs(case: Any, gold: Any, output: Any) -> None:
    """What the heads said in the first step."""
    steps = [step for frame in output.steps for step in frame]
    assert [len(frame) for frame in output.steps] == gold["n_steps_per_frame"].tolist()
    counts = np.zeros(gold["n_masks"].shape, int)
    for row, frame in zip(counts, output.steps, strict=True):
        row[: len(frame)] = [step.masks.shape[1] for step in frame]
    assert counts.tolist() == gold["n_masks"].tolist()
    tolerances = case["tol"]["arrays"]
    check(torch.cat([step.ious.detach() for step in steps], 1), gold["ious"], tolerances, "ious")
    check(torch.cat([step.score.detach() for step in steps], 1), gold["scores"], tolerances, "scores")
    check(np.stack([cut(one, case["slices"]["low"]) for one in output.low]), gold["low"], tolerances, "low")
    clicked = [clicks if t in output.plan.correct else None for t, clicks in enumerate(output.clicks)]
    assert [0 if clicks is None else clicks.points.shape[1] for clicks in clicked] == gold["n_points"].tolist()
    rows = [
        np.concatenate((clicks.points[o].numpy(), clicks.labels[o, :, None].numpy()), 1)
        for clicks in clicked
        if clicks is not None
        for o in range(clicks.points.shape[0])
    ]
    check(np.concatenate(rows) if rows else np.zeros((0, 3)), gold["points"], tolerances, "points")


def check_gradients(case: Any, gold: Any, network: SAM2) -> None:
    """Gradients of the first step, before clipping."""
    parameters = dict(network.named_parameters())
    without = sorted(key for key, value in parameters.items() if value.grad is None)
    assert without == [str(key) for key in gold["no_grad_params"]]
    rule = case["tol"]["grad"]
    for key in case["grad_keys"]:
        gradient = parameters[key].grad
        assert gradient is not None, key
        expected = gold[f"grad_{key}"]
        bound = rule["atol"] + rule["rtol_of_slice_max"] * np.abs(expected).max()
        difference = np.abs(sampled(gradient, case["grad_slice"]) - expected)
        assert (difference <= bound).all(), f"gradient of {key}: {difference.max():.3g}, allowed {bound:.3g}"
        check(gradient.norm().item(), gold[f"gnorm_{key}"], case["tol"], "gnorm", label=f"gradient norm of {key}")


def take_over_faint_gradients(case: Any, gold: Any, network: SAM2, *, clip: float) -> None:
    """Put the golden's gradients in place of ours where, clipped, they are below a hundred times AdamW's eps, and nowhere else.

    All gradients agree within their tolerance, see `check_gradients`. Where one is far above eps, AdamW's first step is its sign
    times the rate, so our own gradients decide the update. Near eps the step's length is `g / (|g| + eps)`: there the rounding
    that the gradient's tolerance allows moves the update by more than *its* tolerance, whoever computes it.
    """
    parameters, rule = dict(network.named_parameters()), case["grad_slice"]
    faint = 100 * case["optimizer"]["eps"]
    for key in case["grad_keys"]:
        flat = parameters[key].grad.view(-1)  # type: ignore[union-attr]
        entries = flat[:: max(1, flat.numel() // rule["divisor"]) | 1][: rule["first"]]
        stored = torch.from_numpy(gold[f"grad_{key}"])
        entries.copy_(torch.where(stored.abs() * min(1.0, clip) < faint, stored, entries))


def check_updates(case: Any, gold: Any, network: SAM2, before: Any) -> None:
    """Updates of the first optimiser step, where gradients are clear of noise."""
    parameters = dict(network.named_parameters())
    rule = case["tol"]["delta"]
    for key in case["delta_keys"]:
        moved = sampled(parameters[key].detach() - before[key], case["grad_slice"])
        if key not in case["grad_keys"]:
            assert parameters[key].grad is None, key
            assert (moved == 0).all(), key
            continue
        expected, gradient = gold[f"delta_{key}"], np.abs(gold[f"grad_{key}"])
        clear = gradient > rule["where_grad_above"] * gradient.max()
        if not clear.any():
            continue
        difference = np.abs(moved - expected)[clear]
        bound = rule["rtol"] * np.abs(expected[clear]).max()
        assert (difference <= bound).all(), f"update of {key}: {difference.max():.3g}, allowed {bound:.3g}"


@pytest.mark.parametrize("case", golden_cases("sam2-rcms", "param_groups"))
def test_parameter_groups(case: Any) -> None:
    gold = json.loads((FOLDER / case["file"]).read_text())
    with torch.device("meta"):
        network = SAM2(case["variant"])
    prepare_for_training(network, freeze_image_encoder=case["freeze_image_encoder"], activation_checkpointing=False)
    config = optimizer_config(case["optimizer"])
    groups = training_groups(network, config)
    schedule = training_schedule(config, steps=STEPS)
    expected = {row["crc"]: row for row in gold["rows"]}
    order = [name for name, _ in network.named_parameters()]
    assert sorted(name for group in groups for name in group["names"]) == sorted(order)
    assert len(groups) == len(gold["rows"])
    for group in groups:
        crc = zlib.crc32("\n".join(sorted(group["names"])).encode())
        assert crc in expected, group["names"][:3]
        row = expected[crc]
        assert row["n"] == len(group["names"])
        for where in case["where"]:
            rate, decay = row["by_where"][str(where)]
            found = group["initial_lr"] * schedule(round(where * STEPS))
            np.testing.assert_allclose(found, rate, rtol=case["tol"]["lr"]["rtol"])
            np.testing.assert_allclose(group["weight_decay"], decay, rtol=case["tol"]["weight_decay"]["rtol"])
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert len(frozen) == gold["n_frozen"]
