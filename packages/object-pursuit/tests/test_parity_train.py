"""Every training stage, step by step, against the goldens."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from object_pursuit.fit import FitOptions, Fitter, Rehearsal
from object_pursuit.fit.fitter import rmsprop, segmentation_loss
from object_pursuit.joint import JointBatch, JointPass
from object_pursuit.model import Coeffnet, Hypernet, Singlenet
from object_pursuit.samples import Samples
from vos_core.testing import GOLDENS, golden_cases, seeded_module
from vos_core.training.distributed import Ranks
from vos_core.training.logging import RunLog
from vos_core.training.loop import LoopOptions, StepLoss, TrainingState, run_loop
from vos_core.training.schedule import every

FOLDER = GOLDENS / "object-pursuit"
pytestmark = pytest.mark.parity


def as_written(modules):
    """Return the modules with their hypernetworks' layers in the written order, the parity path.

    The cheaper order differs by rounding, which decides the sign of RMSprop's first step wherever a gradient is nearly 0; what it
    generates is held to the goldens in test_parity_model, its gradients to the written order in test_hypernet.
    """
    for module in modules.values():
        hypernet = module if isinstance(module, Hypernet) else getattr(module, "hypernet", None)
        if hypernet is not None:
            hypernet.exact_order = True
    return modules


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
    modules = as_written(golden_modules(case))
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
    modules = as_written(golden_modules(case))
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
    (model,) = as_written(golden_modules(case)).values()
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


@pytest.mark.parametrize("case", golden_cases("object-pursuit", "train_joint"))
def test_joint(case, golden_modules, golden_samples, assert_as_stored, tmp_path):
    stored = np.load(FOLDER / case["file"])
    (model,) = as_written(golden_modules(case)).values()
    freeze(case, z=model.z, hypernet=model.hypernet, encoder=model.backbone)
    optimizer = rmsprop(model, lr=case["optimizer"]["lr"])
    check_optimizer(optimizer, case)
    schedule = case["lr_schedule"]
    assert schedule["name"] == "StepLR"
    per_epoch = len(case["steps"]) // case["epochs"]
    options = LoopOptions(steps=len(case["steps"]), clip_value=case["clip_value"], log_every=1, save_every=10**9)
    rule = every(schedule["every_epochs"] * per_epoch, gamma=schedule["gamma"])
    state = TrainingState(model, optimizer, rule, options=options, folder=tmp_path, ranks=Ranks())
    state.save = lambda: tmp_path  # nothing goes on from here
    model.train()
    set_encoder_mode(case, model.backbone)
    recorder = Recorder(model.named_parameters(), [str(name) for name in stored["names"]])
    groups = groups_of(case, stored, golden_samples)
    batches = iter([JointBatch(step["cls"], groups[step["images"]]) for step in case["steps"]])
    losses = []

    def compute(module, batch, step):
        loss = module(batch.samples.images, batch.samples.masks, batch.index)
        losses.append(float(loss.detach()))
        return StepLoss(loss)

    def after_step(*_):
        if len(losses) == 1:
            assert recorder.with_gradient() == recorder.names
        recorder.record()

    optimizer.register_step_post_hook(after_step)
    log = RunLog(tmp_path, total=options.steps, active=False)
    run_loop(state, batches, compute, log, module=JointPass(model))
    found = {**recorder.rows, "losses": losses, "z_after": model.z.detach().numpy()}
    try:
        compare(case, stored, found, assert_as_stored, encoder=model.backbone)
    except AssertionError:
        # The stored loss of the first step is itself rounded by more than its tolerance where matrix products round otherwise
        # (seen on AMD against Intel): then the same graph in float64 is the measure for both, and all else must still agree.
        exact = first_loss_in_double(case, golden_modules, groups)
        golden = float(stored["losses"][0])
        assert abs(golden - exact) > 1e-6 * abs(golden), "the stored value is exact enough to be met"
        assert abs(losses[0] - exact) <= 1e-6 * abs(exact), (losses[0], golden, exact)
        losses[0] = golden
        compare(case, stored, found, assert_as_stored, encoder=model.backbone)


def first_loss_in_double(case, golden_modules, groups):
    (model,) = as_written(golden_modules(case)).values()
    set_encoder_mode(case, model.train().double().backbone)
    step = case["steps"][0]
    samples = groups[step["images"]]
    with torch.no_grad():
        return float(segmentation_loss(model(samples.images.double(), step["cls"]), samples.masks.double()))
