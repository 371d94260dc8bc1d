"""Every training stage, step by step, against the goldens."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from object_pursuit.fit import Fitter, FitOptions, Rehearsal
from object_pursuit.model import Coeffnet, Singlenet
from object_pursuit.samples import Samples
from vos_core.testing import GOLDENS, golden_cases, seeded_module

FOLDER = GOLDENS / "object-pursuit"
pytestmark = pytest.mark.parity


def options_of(case):
    optimizer = case["optimizer"]
    assert optimizer["name"] == "RMSprop"
    loss = case["loss"]
    assert loss["name"] == "bce_logits"
    return FitOptions(
        lr=optimizer["lr"],
        l1=loss.get("l1", 0.0),
        memory=loss.get("memory", 0.0),
        positive_weight=loss["pos_weight"],
        clip_value=case["clip_value"],
        metric=case["eval_metric"] if case.get("evaluations") else "dice",
    )


def check_optimizer(optimizer, case):
    """The published constants are ours."""
    group, told = optimizer.param_groups[0], case["optimizer"]
    for name in ("alpha", "eps", "momentum", "weight_decay"):
        assert group[name] == told[name], name


def groups_of(case, stored, golden_samples):
    """Return the batches of a case by group index."""
    images, masks = stored["images_u8"], stored["masks_u8"]
    if images.ndim == 4:
        images, masks = images[None], masks[None]
    return [Samples(*golden_samples(picture, truth)) for picture, truth in zip(images, masks, strict=True)]


def freeze(case, **modules):
    for name, module in modules.items():
        if module is not None:
            module.requires_grad_(name in case["trained"])


class Recorder:
    """Collects per parameter what the goldens store; `names` are the parameters with a gradient in the first step."""

    def __init__(self, named, names):
        self.named, self.names, self.rows = dict(named), names, {}

    def record(self, **more):
        found = {
            "grad_norm": [self._grad(name).norm() for name in self.names],
            "grad_sum": [self._grad(name).sum() for name in self.names],
            "param_norm": [self.named[name].detach().double().norm() for name in self.names],
            "param_sum": [self.named[name].detach().double().sum() for name in self.names],
        }
        for key, values in {**found, **more}.items():
            self.rows.setdefault(key, []).append(np.array(torch.as_tensor(values).tolist()))

    def _grad(self, name):
        grad = self.named[name].grad
        return torch.zeros(()) if grad is None else grad.double()

    def with_gradient(self):
        return sorted(name for name, parameter in self.named.items() if parameter.grad is not None)


def run_steps(case, fitter, groups, after_step):
    """Run the steps and evaluations of a case; return the quality of each epoch."""
    per_epoch = len(case["steps"]) // case["epochs"]
    due = {entry["after_step"]: entry["images"] for entry in case["evaluations"]}
    epochs, current = [], []
    for number, step in enumerate(case["steps"], start=1):
        after_step(number, fitter.step(groups[step["images"]]))
        if number in due:
            scores = fitter.evaluate([groups[index] for index in due[number]])
            current.append(sum(scores) / len(scores))
        if number % per_epoch == 0:
            epochs += [sum(current) / len(current)] if current else []
            current = []
    return epochs


def compare(case, stored, found, assert_as_stored, *, encoder=None):
    if encoder is not None:
        found = {**found, "bn1_running_mean": encoder.bn1.running_mean.numpy()}
    for entry in case["compare"]:
        assert_as_stored(np.asarray(found[entry["array"]]), stored[entry["array"]], entry)


def set_encoder_mode(case, encoder):
    if encoder is not None:
        encoder.train(case["encoder_mode"] == "train")


@pytest.mark.parametrize("case", golden_cases("object-pursuit", "train_coeff"))
def test_coefficients(case, golden_modules, golden_samples, assert_as_stored):
    stored = np.load(FOLDER / case["file"])
    modules = golden_modules(case)
    hypernet, encoder = modules["hypernet"], modules.get("encoder")
    freeze(case, hypernet=hypernet, encoder=encoder)
    model = Coeffnet(hypernet, encoder, bases=torch.from_numpy(stored["zs"]), dropout="never")
    np.testing.assert_allclose(model.coeffs.detach().numpy(), case["coeff_init"], rtol=1e-6)
    fitter = Fitter(model, options_of(case))
    check_optimizer(fitter.optimizer, case)
    set_encoder_mode(case, encoder)
    rows = {"seg_losses": [], "pos_weights": [], "grads": [], "coeffs": []}

    def after_step(number, figures):
        rows["seg_losses"].append(figures.loss)
        rows["pos_weights"].append(figures.positive_weight)
        rows["grads"].append(model.coeffs.grad.numpy().copy())
        rows["coeffs"].append(model.coeffs.detach().numpy().copy())

    epochs = run_steps(case, fitter, groups_of(case, stored, golden_samples), after_step)
    found = {**rows, "z_final": model.code().detach().numpy(), "max_val_acc": max(epochs, default=0.0)}
    compare(case, stored, found, assert_as_stored, encoder=encoder)


@pytest.mark.parametrize("case", golden_cases("object-pursuit", "train_newbase"))
def test_new_base(case, golden_modules, golden_samples, assert_as_stored):
    stored = np.load(FOLDER / case["file"])
    modules = golden_modules(case)
    hypernet, encoder = modules["hypernet"], modules.get("encoder")
    memory, start = case["memory"], case["start_code"]
    codes = torch.from_numpy(stored["mem_z"])
    targets = scaled_targets(hypernet, codes, factor=memory["target_parameter_scale"])
    freeze(case, hypernet=hypernet, encoder=encoder)
    z = torch.from_numpy(seeded_module().seeded_array(start["seeded_key"], (case["z_dim"],), start["seed"])) * start["scale"]
    model = Singlenet(hypernet, encoder, z=z, dropout="never")
    rehearsal = Rehearsal(codes, [lambda t=t: t for t in targets], rng=random.Random(memory["python_seed"]))
    picks = recorded_picks(rehearsal)
    with torch.no_grad():
        generated = hypernet(codes[memory["norm_codes"]])
        norms = rehearsal.norms({name: generated[name] for name in memory["norm_tensors"]}, memory["norm_codes"])
    fitter = Fitter(model, options_of(case), rehearsal=rehearsal)
    check_optimizer(fitter.optimizer, case)
    set_encoder_mode(case, encoder)
    recorder = Recorder(model.named_parameters(), [str(name) for name in stored["names"]])

    def after_step(number, figures):
        if number == 1:
            assert recorder.with_gradient() == recorder.names
        recorder.record(
            seg_losses=figures.loss, pos_weights=figures.positive_weight, z_steps=model.z.detach(), z_grads=model.z.grad
        )

    epochs = run_steps(case, fitter, groups_of(case, stored, golden_samples), after_step)
    assert picks == memory["picks"]
    found = {**recorder.rows, "mem_norms_at_start": norms.numpy(), "max_val_acc": max(epochs, default=0.0)}
    compare(case, stored, found, assert_as_stored, encoder=encoder)


def recorded_picks(rehearsal):
    picks, draw = [], rehearsal.pick

    def pick():
        picks.append(draw())
        return picks[-1]

    rehearsal.pick = pick
    return picks


def scaled_targets(hypernet, codes, *, factor):
    """Return what the hypernetwork generates with all its parameters multiplied by `factor`."""
    saved = {name: value.clone() for name, value in hypernet.state_dict().items()}
    with torch.no_grad():
        for parameter in hypernet.parameters():
            parameter.mul_(factor)
        targets = [hypernet(code) for code in codes]
    hypernet.load_state_dict(saved)
    return targets


@pytest.mark.parametrize("case", golden_cases("object-pursuit", "train_oneshot"))
def test_one_shot(case, golden_modules, golden_samples, assert_as_stored):
    stored = np.load(FOLDER / case["file"])
    (model,) = golden_modules(case).values()
    freeze(case, hypernet=model.hypernet, encoder=model.backbone)
    if isinstance(model, Coeffnet):
        model.bases = torch.from_numpy(stored["zs"])
    own = model.coeffs if isinstance(model, Coeffnet) else model.z
    fitter = Fitter(model, options_of(case))
    check_optimizer(fitter.optimizer, case)
    set_encoder_mode(case, model.backbone)
    rows = {"losses": [], "grads": [], "steps": []}

    def after_step(number, figures):
        rows["losses"].append(figures.loss)
        rows["grads"].append(own.grad.numpy().copy())
        rows["steps"].append(own.detach().numpy().copy())

    epochs = run_steps(case, fitter, groups_of(case, stored, golden_samples), after_step)
    compare(case, stored, {**rows, "val_iou": epochs}, assert_as_stored, encoder=model.backbone)
