"""One pre-training run: data, network, optimiser, the loop, and the checkpoints that others read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from rsp_pretrain.config import Objective
from rsp_pretrain.data.pairs import FramePairs, PairConfig
from rsp_pretrain.data.sources import find_videos
from rsp_pretrain.model import RSP, Encoder, build_rsp
from rsp_pretrain.train.objective import PairLoss, SeededPairs, collate
from rsp_pretrain.train.published import checkpoint_file, restore_published, saved_epochs, write_published
from rsp_pretrain.train.schedule import BETAS, optimizer_groups, rate_schedule
from rsp_pretrain.weights import LoadReport, encoder_state, fill_encoder, is_whole
from vos_core.contract import Precision
from vos_core.errors import UsageError
from vos_core.training.batches import BatchPlan, batch_stream
from vos_core.training.distributed import Ranks
from vos_core.training.logging import RunLog
from vos_core.training.loop import LoopOptions, TrainingState, run_loop
from vos_core.training.optim import build_optimizer

LR_BATCH = 256
"""The base learning rate is for this many videos a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What a run is; defaults are the published ones.

    Args:
        data: Kinetics-400 folder, a list of videos, or any folder of videos.
        output: folder of the run.
        variant: of the network.
        objective: losses and latents.
        pairs: how frame pairs are drawn; its size is that of the network.
        batch_size: videos a rank takes at once.
        accumulate: batches a step.
        epochs, warmup_epochs: passes over the frames; each pass over the videos counts `repeated_sampling` times.
        lr: learning rate; None = `blr` * videos a step / 256.
        blr, min_lr: base rate, last rate.
        weight_decay: of matrices.
        layer_decay: factor between the rates of neighbouring encoder layers; None = all alike.
        clip_grad: largest norm of the gradient; None = not clipped.
        precision: of the forward pass.
        workers, prefetch: loader processes, and batches each prepares ahead.
        pin_memory: for CUDA.
        save_epochs: epochs between published checkpoints, besides the last two.
        save_every: steps between the checkpoints a killed run goes on from; None = one epoch.
        log_every, picture_every: steps.
        prior_every: steps between predictions from the prior, which only the log shows.
        resume: checkpoint file or address to go on from, where the output folder has none of its own.
        init: weights to start from: a whole network, or an encoder alone.
        start_epoch: where a run without checkpoint begins its schedule, in epochs over the videos.
        seed: of everything random.
    """

    data: Path
    output: Path
    variant: str = "rsp_vit_small_patch16"
    objective: Objective = field(default_factory=lambda: Objective(norm_pix_loss=False))
    pairs: PairConfig = field(default_factory=PairConfig)
    batch_size: int = 64
    accumulate: int = 1
    epochs: int = 400
    warmup_epochs: float = 40
    lr: float | None = None
    blr: float = 1.5e-4
    min_lr: float = 0.0
    weight_decay: float = 0.05
    layer_decay: float | None = None
    clip_grad: float | None = None
    precision: Precision = "fp32"
    workers: int = 6
    prefetch: int = 2
    pin_memory: bool = True
    save_epochs: int = 50
    save_every: int | None = None
    log_every: int = 20
    picture_every: int = 1000
    prior_every: int = 20
    resume: str | None = None
    init: Path | None = None
    start_epoch: int = 0
    seed: int = 0
    tensorboard: bool = False
    progress: bool = True


def pretrain(
    options: TrainOptions, ranks: Ranks, *, network: RSP | None = None, on_init: Callable[[LoadReport], object] | None = None
) -> Path:
    """Run, or go on with, a pre-training; return the last published checkpoint, `<output>/checkpoint-<epoch>.pth`.

    Args:
        options: of the run.
        ranks: this process's place.
        network: to train instead of a fresh one of `options.variant`.
        on_init: called with what became of the weights of `options.init`, if a run starts from them.

    Raises:
        UsageError: fewer videos than a batch, or an output folder that holds a run with other settings.
        LayoutError: no videos.
        WeightsError: a checkpoint that does not fit.
    """
    pairs = options.pairs
    torch.manual_seed(options.seed)  # the same start on all ranks
    if network is None:
        network = build_rsp(options.variant, image_size=pairs.size, **options.objective.model_dump())
    network.to(ranks.device)
    data = SeededPairs(FramePairs(find_videos(options.data), pairs))
    plan = BatchPlan(len(data), options.batch_size, rank=ranks.rank, world=ranks.world, seed=options.seed)
    epochs = max(1, options.epochs // pairs.repeated_sampling)
    if not 0 <= options.start_epoch < epochs:
        raise UsageError(f"start epoch {options.start_epoch} of {epochs}", expected=f"0 to {epochs - 1}")
    per_epoch = plan.batches_per_epoch
    state = _training_state(network, options, ranks, epochs=epochs, per_epoch=per_epoch)
    report = _begin(state, options, per_epoch=per_epoch)
    if report is not None and on_init is not None:
        on_init(report)
    stops = {
        epoch: _step_after(epoch, per_epoch, options.accumulate) for epoch in saved_epochs(epochs, every=options.save_epochs)
    }
    stream = _stream(data, options, ranks, start=state.step * options.accumulate)
    log = RunLog(
        options.output,
        total=state.options.steps,
        start=state.step,
        active=ranks.main,
        tensorboard=options.tensorboard,
        progress=options.progress,
    )
    compute = PairLoss(network, ranks.device, prior_every=options.prior_every)
    whole = state.options
    final = options.output / "checkpoint-0.pth"
    try:
        for epoch, step in stops.items():
            final = options.output / f"checkpoint-{epoch}.pth"
            if state.step < step:
                state.options = replace(whole, steps=step)
                run_loop(state, stream, compute, log)
            if ranks.main and state.step == step and not final.is_file():
                write_published(final, state, epoch=epoch, args=_arguments(options, network))
            ranks.barrier()
    finally:
        log.close()
    return final


def _training_state(network: RSP, options: TrainOptions, ranks: Ranks, *, epochs: int, per_epoch: int) -> TrainingState:
    videos = options.batch_size * options.accumulate * ranks.world
    lr = options.blr * videos / LR_BATCH if options.lr is None else options.lr
    warmup = options.warmup_epochs / options.pairs.repeated_sampling
    groups = optimizer_groups(
        network.named_parameters(),
        lr=lr,
        weight_decay=options.weight_decay,
        decay_factor=options.layer_decay,
        depth=len(network.blocks),
    )
    loop = LoopOptions(
        steps=_step_after(epochs - 1, per_epoch, options.accumulate),
        accumulate=options.accumulate,
        precision=options.precision,
        clip_norm=options.clip_grad,
        log_every=options.log_every,
        picture_every=options.picture_every,
        save_every=options.save_every or max(1, per_epoch // options.accumulate),
        seed=options.seed,
        fingerprint={
            "variant": options.variant,
            "videos": videos,
            "epochs": epochs,
            "lr": lr,
            "min_lr": options.min_lr,
            "warmup": warmup,
            "weight_decay": options.weight_decay,
            "layer_decay": options.layer_decay,
            "clip_grad": options.clip_grad,
            "seed": options.seed,
            "batches_per_epoch": per_epoch,
            "objective": options.objective.model_dump(),
            "pairs": _plain(options.pairs.model_dump()),
        },
    )
    schedule = rate_schedule(
        epochs_per_step=options.accumulate / per_epoch, lr=lr, min_lr=options.min_lr, warmup_epochs=warmup, epochs=epochs
    )
    optimizer = build_optimizer("adamw", groups, betas=BETAS)
    return TrainingState(network, optimizer, schedule, options=loop, folder=options.output, ranks=ranks)


def _begin(state: TrainingState, options: TrainOptions, *, per_epoch: int) -> LoadReport | None:
    """Set weights and position: the folder's own checkpoint, else `resume`, else `init` and `start_epoch`."""
    if state.resume():
        return None
    if options.resume is not None:
        path = checkpoint_file(options.resume)
        state.step = _step_after(restore_published(path, state), per_epoch, options.accumulate)
        return None
    if options.start_epoch:
        state.step = _step_after(options.start_epoch - 1, per_epoch, options.accumulate)
    return None if options.init is None else _fill(state.model, options.init)


def _fill(network: torch.nn.Module, path: Path) -> LoadReport:
    assert isinstance(network, RSP)
    found = encoder_state(path)
    if is_whole(found):
        from vos_core.weights.strict import load_strict

        load_strict(network, found, source=str(path))
        return LoadReport(str(path), "whole pre-training network", len(found), {})
    # An encoder, perhaps with parts of another method: what RSP has besides keeps its start values.
    size = network.architecture
    with torch.device("meta"):
        encoder = Encoder(patch=size.patch, dim=size.dim, depth=size.depth, heads=size.heads, image_size=network.image_size)
    report = fill_encoder(encoder, found, source=str(path))
    network.load_state_dict(encoder.state_dict(), strict=False)
    return report


def _stream(data: SeededPairs, options: TrainOptions, ranks: Ranks, *, start: int) -> Iterator[Any]:
    plan = BatchPlan(len(data), options.batch_size, rank=ranks.rank, world=ranks.world, seed=options.seed, start=start)
    pin = options.pin_memory and ranks.device.type == "cuda"
    return batch_stream(data, plan, workers=options.workers, collate=collate, pin_memory=pin, prefetch=options.prefetch)


def _step_after(epoch: int, per_epoch: int, accumulate: int) -> int:
    """Return the steps done once epoch `epoch` (from 0) is over; batches that fill no step go to the next epoch."""
    return max(1, (epoch + 1) * per_epoch // accumulate)


def _arguments(options: TrainOptions, network: RSP) -> dict[str, Any]:
    """Return the run's options as plain values, objective and sizes at the outer level as the original's `args` have them."""
    plain = {key: value for key, value in asdict(options).items() if key not in ("objective", "pairs")}
    sizes = {name: getattr(network.architecture, name) for name in ("heads", "decoder_heads")}
    nested = {**options.pairs.model_dump(), **options.objective.model_dump(), **sizes}
    return {key: _plain(value) for key, value in {**plain, **nested, "model": options.variant}.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
