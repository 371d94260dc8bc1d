"""A training run: start weights, data, optimiser, loop, files."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn

from sam2_rcms.config import TRUNKS, TrunkConfig
from sam2_rcms.model import SAM2
from sam2_rcms.train.config import TrainConfig
from sam2_rcms.train.dataset import ClipBatch, collate, training_set
from sam2_rcms.train.forward import prepare_for_training
from sam2_rcms.train.losses import NAMES
from sam2_rcms.train.objective import ClipLoss
from sam2_rcms.train.optim import training_optimizer, training_schedule
from sam2_rcms.train.picture import clip_pictures
from sam2_rcms.weights import load_into
from vos_core.io.atomic import write_text
from vos_core.training.batches import BatchPlan, batch_stream
from vos_core.training.distributed import Ranks
from vos_core.training.ema import Ema
from vos_core.training.logging import PictureGrid, RunLog
from vos_core.training.loop import LoopOptions, StepLoss, TrainingState, run_loop
from vos_core.weights.convert import save_state
from vos_core.weights.load import load_state

_NOT_THE_RESULT = (
    "workers",
    "log_every",
    "save_every",
    "keep",
    "activation_checkpointing",
    "weights",
    "data",
    "accumulate",
    "batch_size",
)
"""Fields that may change when a run goes on; of the data sets only their folders may, of the batch only its parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How a configuration is run.

    Args:
        output: folder of the run: checkpoints, `log.jsonl`, `config.yaml` and the networks.
        weights: file to start from; None = untrained.
        resume_from: checkpoint of another folder to go on from, where this one has none.
        trunk: another image encoder than the variant's (reduced models).
        tensorboard: write TensorBoard logs with pictures.
        picture_every: steps between pictures.
        progress: show the bar.
    """

    output: Path
    weights: Path | None = None
    resume_from: Path | None = None
    trunk: TrunkConfig | None = None
    tensorboard: bool = False
    picture_every: int = 500
    progress: bool = True


def train(config: TrainConfig, options: TrainOptions, ranks: Ranks) -> Path:
    """Run a stage, or go on with it, and return the file of its last network, `{"model": ...}` as released weights are.

    With an average of the weights (`ema_decay`) its network is written beside it as `model_ema.pt`.

    Raises:
        UsageError: no data was named, or the folder holds a run with other settings.
        LayoutError: data that is not laid out as it must be.
        WeightsError: start weights that do not fit.
    """
    data = training_set(config)
    plan = BatchPlan(len(data), config.batch_size, rank=ranks.rank, world=ranks.world, seed=config.seed)
    per_epoch = max(1, plan.batches_per_epoch // config.accumulate)
    steps = config.epochs * per_epoch if config.steps is None else config.steps
    network = start_network(config, options).to(ranks.device)
    optimizer = training_optimizer(network, config.optimizer)
    state = TrainingState(
        network,
        optimizer,
        training_schedule(config.optimizer, steps=steps),
        options=_loop_options(config, options, ranks, steps=steps, save_every=config.save_every or per_epoch),
        folder=options.output,
        ranks=ranks,
        ema=None if config.ema_decay is None else Ema(network, config.ema_decay),
    )
    if not state.resume() and options.resume_from is not None:
        state.restore(options.resume_from)
    final = options.output / "model.pt"
    if final.is_file() and state.step >= steps:  # looked for only now, so that other settings are refused
        return final
    plan.start = state.step * config.accumulate
    stream = batch_stream(data, plan, workers=config.workers, collate=collate, pin_memory=ranks.device.type == "cuda")
    if ranks.main:
        write_text(options.output / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    log = RunLog(
        options.output,
        total=steps,
        start=state.step,
        active=ranks.main,
        tensorboard=options.tensorboard,
        progress=options.progress,
    )
    objective = ClipLoss(network, config)
    try:
        run_loop(state, stream, _Recipe(config, objective, ranks), log, module=objective, find_unused=True)
    finally:
        log.close()
    if ranks.main:
        save_state(final, network.state_dict(), wrapper="model")
        if state.ema is not None:
            with state.ema.applied(network):
                save_state(options.output / "model_ema.pt", network.state_dict(), wrapper="model")
    ranks.barrier()
    return final


def start_network(config: TrainConfig, options: TrainOptions) -> SAM2:
    """Return the network that a run starts from, in training mode."""
    trunk = (options.trunk or TRUNKS[config.variant]).model_copy(update={"drop_path_rate": config.drop_path_rate})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # the same start on all ranks
        network = SAM2(config.variant, trunk=trunk, dropout=config.dropout)
    if options.weights is not None:
        load_into(network, load_state(options.weights), source=str(options.weights))
    prepare_for_training(
        network, freeze_image_encoder=config.freeze_image_encoder, activation_checkpointing=config.activation_checkpointing
    )
    return network


class _Recipe:
    """What the loop calls: one batch in, one loss out. Decisions depend on the step and the micro-batch, not on the past."""

    def __init__(self, config: TrainConfig, objective: ClipLoss, ranks: Ranks) -> None:
        self.config, self.objective, self.ranks = config, objective, ranks
        self._step, self._micro = -1, itertools.count()

    def __call__(self, model: nn.Module, batch: ClipBatch, step: int) -> StepLoss:
        if step != self._step:
            self._step, self._micro = step, itertools.count()
        rng = np.random.default_rng((self.config.prompts.seed, step, next(self._micro)))
        objects = max(1.0, self.ranks.mean({"objects": float(batch.masks.shape[1])})["objects"])
        batch = batch.to(self.ranks.device)
        losses = model(batch, rng, objects)
        return StepLoss(losses["core_loss"], {name: losses[name].detach() for name in NAMES}, lambda: self._pictures(batch))

    def _pictures(self, batch: ClipBatch) -> Mapping[str, PictureGrid]:
        assert self.objective.last is not None
        return clip_pictures(batch, self.objective.last)


def _loop_options(config: TrainConfig, options: TrainOptions, ranks: Ranks, *, steps: int, save_every: int) -> LoopOptions:
    return LoopOptions(
        steps=steps,
        accumulate=config.accumulate,
        precision=config.precision,
        clip_norm=config.optimizer.clip_norm,
        log_every=config.log_every,
        picture_every=options.picture_every,
        save_every=save_every,
        keep=config.keep,
        seed=config.seed,
        fingerprint=fingerprint(config, world=ranks.world, steps=steps),
    )


def fingerprint(config: TrainConfig, *, world: int, steps: int) -> dict[str, object]:
    """Return what must not change when a run goes on: the clips of a step, and every value that shapes the result."""
    values = config.model_dump(mode="json", exclude=set(_NOT_THE_RESULT))
    digest = {key: value if not isinstance(value, dict | list) else _digest(value) for key, value in values.items()}
    return {**digest, "clips_per_step": config.batch_size * config.accumulate * world, "steps": steps}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
