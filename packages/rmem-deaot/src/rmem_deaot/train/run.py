"""Running a stage: data, start weights, optimiser, loop, files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rmem_deaot.config import SLOTS
from rmem_deaot.train.augment import SIZE
from rmem_deaot.train.bank import BankLimits
from rmem_deaot.train.data import Roots, stage_data
from rmem_deaot.train.objective import ClipLoss, ClipPass, Objective
from rmem_deaot.train.pictures import clip_pictures, mean_overlap
from rmem_deaot.train.recipe import CLIP_NORM, average_of, parameter_groups_of, rate_schedule
from rmem_deaot.train.samples import ClipBatch, collate
from rmem_deaot.train.stages import Plan, Source
from rmem_deaot.train.start import Init, start_network
from vos_core.contract import Precision
from vos_core.errors import UsageError
from vos_core.training.batches import BatchPlan, batch_stream
from vos_core.training.checkpoint import drop_old_checkpoints, newest_checkpoint, save_checkpoint
from vos_core.training.distributed import Ranks
from vos_core.training.logging import RunLog
from vos_core.training.loop import LoopOptions, StepLoss, TrainingState, run_loop
from vos_core.training.optim import build_optimizer

AVERAGE_FILES = r"save_step_(\d+)\.pth"
KEPT = 8
"""Files of averaged weights that stay: the published one was not the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """Where a stage's data are, how it runs, and what replaces its published values (None keeps them)."""

    output: Path
    name: str = "default"
    roots: Roots = field(default_factory=dict)
    sources: tuple[Source, ...] | None = None
    init: Init | None = None
    previous: Path | None = None
    steps: int | None = None
    batch: int | None = None
    lr: float | None = None
    frames: int | None = None
    gap: int | None = None
    size: int = SIZE
    objects: int = SLOTS
    limits: BankLimits | None = None
    soft_masks: bool = False
    workers: int = 8
    accumulate: int = 1
    precision: Precision = "fp32"
    save_every: int | None = None
    log_every: int = 100
    picture_every: int = 800
    seed: int = 0
    tensorboard: bool = False
    progress: bool = True


class StageState(TrainingState):
    """A training state that also writes the averaged weights, in the original's form, wherever it saves."""

    def save(self) -> Path:
        """Write `checkpoint_<step>.pth` and `ema_ckpt/save_step_<step>.pth`."""
        path = super().save()
        self.save_average()
        return path

    @property
    def average_path(self) -> Path:
        """Where the averaged weights of this step are."""
        return self.folder / "ema_ckpt" / f"save_step_{self.step}.pth"

    def save_average(self) -> None:
        """Write the averaged weights on the main rank and drop old ones; every rank must call it."""
        if self.ranks.main:
            assert self.ema is not None
            with self.ema.applied(self.model):
                save_checkpoint(self.average_path, {"state_dict": self.model.state_dict()})
            drop_old_checkpoints(self.average_path.parent, keep=KEPT, pattern=AVERAGE_FILES)
        self.ranks.barrier()


def train_stage(plan: Plan, options: TrainOptions, ranks: Ranks) -> Path:
    """Run a stage, or go on with it, and return the file of its averaged weights.

    Files are under `<output>/<name>_<variant>/<stage>`: `checkpoint_<step>.pth` to go on from, `ema_ckpt/save_step_<step>.pth` to
    evaluate, `log.jsonl`.

    Raises:
        UsageError: no data, no start weights, a batch that the ranks cannot share, or a folder with a run of other settings.
        LayoutError: data that is not laid out as it must be.
        WeightsError: start weights that cannot be had or do not fit.
    """
    plan = with_changes(plan, options)
    stage = plan.stage
    size = input_side(options.size, align_corners=plan.config.network.align_corners)
    share = stage.batch // (ranks.world * options.accumulate)
    if share * ranks.world * options.accumulate != stage.batch or not share:
        raise UsageError(
            f"{stage.batch} clips a step cannot be shared by {ranks.world} rank(s) with {options.accumulate} batch(es) each",
            fix="Give a --batch_size that is a multiple of both together",
        )
    folder = options.output / f"{options.name}_{plan.variant}" / stage.name
    data = stage_data(plan, options.roots, sources=options.sources, size=size, objects=options.objects)
    torch.manual_seed(options.seed)  # the same start on all ranks
    network = build_network(plan, options, data.draw(0, epoch=0, rng=np.random.default_rng(options.seed)))
    network = network.to(ranks.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    loop = LoopOptions(
        steps=stage.steps,
        accumulate=options.accumulate,
        precision=options.precision,
        clip_norm=CLIP_NORM,
        log_every=options.log_every,
        picture_every=options.picture_every,
        save_every=options.save_every or stage.save_every,
        seed=options.seed + 100 * ranks.rank,
        fingerprint=fingerprint(plan, options, size=size),
    )
    optimizer = build_optimizer("adamw", parameter_groups_of(network, stage))
    state = StageState(
        network,
        optimizer,
        rate_schedule(stage.steps),
        options=loop,
        folder=folder,
        ranks=ranks,
        ema=average_of(network, stage.steps),
    )
    state.resume()
    if state.step < stage.steps:
        order = BatchPlan(
            len(data), share, rank=ranks.rank, world=ranks.world, seed=options.seed, start=state.step * options.accumulate
        )
        stream = batch_stream(data, order, workers=options.workers, collate=collate, pin_memory=ranks.device.type == "cuda")
        log = RunLog(
            folder,
            total=stage.steps,
            start=state.step,
            active=ranks.main,
            tensorboard=options.tensorboard,
            progress=options.progress,
        )
        module = ClipPass(network, objective_of(plan, options))
        try:
            run_loop(state, stream, _compute(ranks), log, module=module, find_unused=True)
        finally:
            log.close()
    elif not state.average_path.is_file():  # killed between the two files
        state.save_average()
    return state.average_path


def with_changes(plan: Plan, options: TrainOptions) -> Plan:
    """Return the plan with the values that the options replace."""
    given = {name: getattr(options, name) for name in ("steps", "batch", "lr", "frames", "gap")}
    changes = {name: value for name, value in given.items() if value is not None}
    return replace(plan, stage=replace(plan.stage, **changes))


def objective_of(plan: Plan, options: TrainOptions) -> Objective:
    """Return what a stage descends."""
    stage = plan.stage
    return Objective(
        total_steps=stage.steps,
        gap=stage.gap,
        own_masks=stage.own_masks,
        soft_masks=options.soft_masks,
        ignore=stage.ignore,
        aux_ratio=stage.aux_ratio,
        limits=options.limits,
    )


def build_network(plan: Plan, options: TrainOptions, sample: ClipBatch) -> nn.Module:
    """Return the network that the stage starts from: the named weights, else those of the stage before in this run, else `init`.

    Raises:
        UsageError: the stage builds on another one and neither its weights nor `init` are there.
    """
    previous = options.previous
    if previous is None and options.init is None and plan.stage.start is not None:
        previous = weights_of_stage_before(plan, options)
        if previous is None:
            raise UsageError(
                f"stage {plan.stage.name} starts from the weights of stage {plan.stage.start}, which this run has not",
                fix="Name a file with --pretrained_path, or begin from --init imagenet or --init random",
            )
    return start_network(plan.variant, previous=previous, init=options.init or "imagenet", seed=options.seed, sample=sample)


def weights_of_stage_before(plan: Plan, options: TrainOptions) -> Path | None:
    """Return the newest averaged weights of the stage before, of this form of the model or of one that it grows out of."""
    base = re.sub(r"(_rmem)?(_vost)?$", "", plan.variant)
    forms = dict.fromkeys((plan.variant, plan.variant.removesuffix("_vost"), base))
    for form in forms:
        folder = options.output / f"{options.name}_{form}" / str(plan.stage.start) / "ema_ckpt"
        found = newest_checkpoint(folder, pattern=AVERAGE_FILES)
        if found is not None:
            return found
    return None


def input_side(size: int, *, align_corners: bool) -> int:
    """Return the side of a sample that the network takes without resizing: 16 a + 1, or 16 a.

    Raises:
        UsageError: fewer than 33 pixels.
    """
    if size < 33:
        raise UsageError(f"--size {size}", expected="at least 33 pixels")
    return (size - 1) // 16 * 16 + (1 if align_corners else 0)


def fingerprint(plan: Plan, options: TrainOptions, *, size: int) -> Mapping[str, Any]:
    """Return what must not change when a run goes on."""
    stage, limits = plan.stage, options.limits
    return {
        "stage": stage.name,
        "variant": plan.variant,
        "steps": stage.steps,
        "batch": stage.batch,
        "lr": stage.lr,
        "frames": stage.frames,
        "gap": stage.gap,
        "size": size,
        "objects": options.objects,
        "seed": options.seed,
        "sources": list(options.sources or ()),
        "soft_masks": options.soft_masks,
        "bank": None if limits is None else [limits.former, limits.latter, limits.rule],
    }


def _compute(ranks: Ranks) -> Any:
    def compute(model: nn.Module, batch: ClipBatch, step: int) -> StepLoss:
        batch = batch.to(ranks.device)
        found: ClipLoss = model(batch, step)
        values = {"aux": found.frame_losses[0].mean(), "iou": mean_overlap(found.logits, batch)}
        return StepLoss(found.loss, values, lambda: clip_pictures(found.logits, batch))

    return compute
