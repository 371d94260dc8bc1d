"""Joint pretraining: one code per object, hypernetwork and encoder together (spec section 4.1). Runs on one process or many."""

from __future__ import annotations

import bisect
import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from object_pursuit.config import NetworkConfig
from object_pursuit.data.order import joint_batches
from object_pursuit.fit.fitter import rmsprop, segmentation_loss
from object_pursuit.fit.loop import evaluation_batches
from object_pursuit.model import MultiDeepLab, Multinet, build_encoder, build_hypernet
from object_pursuit.quality import Metric, batch_quality
from object_pursuit.samples import ObjectImages, Samples
from vos_core.config import Config
from vos_core.contract import Precision
from vos_core.errors import UsageError
from vos_core.io.atomic import write_json
from vos_core.training.checkpoint import save_checkpoint
from vos_core.training.distributed import Ranks
from vos_core.training.logging import RunLog
from vos_core.training.loop import LoopOptions, StepLoss, TrainingState, autocast, run_loop
from vos_core.training.schedule import every

AHEAD = 4
"""Batches that reader threads prepare ahead, for each thread."""


class JointOptions(Config):
    """Options of joint pretraining that change its results."""

    model: Literal["Multinet", "MultiDeeplab"] = Field(default="Multinet", description="a code per object, or one shared DeepLab")
    batch_size: int = Field(default=8, ge=2, description="images of one object in a step of one rank")
    epochs: int = Field(default=100, ge=1, description="passes over all objects")
    lr: float = Field(default=4e-4, gt=0, description="learning rate of RMSprop, times 0.7 every 15 epochs")
    lr_step: int = Field(default=15, ge=1, description="epochs between drops of the learning rate")
    gamma: float = Field(default=0.7, gt=0, description="factor of each drop")
    clip_value: float = Field(default=0.1, gt=0, description="gradient values are clipped to +- this")
    num_balance: bool = Field(default=False, description="as many batches of each object as the one with the fewest has")
    freeze_backbone: bool = Field(default=False, description="do not train the encoder")
    eval_step: int = Field(default=10, ge=1, description="epochs between evaluations")
    eval_n: int = Field(default=-1, description="images of each object in an evaluation; -1 = all")
    metric: Metric = Field(default="jaccard_pooled", description="quality by which the best epoch is kept")
    accumulate: int = Field(default=1, ge=1, description="batches in a step")
    seed: int = Field(default=0, ge=0, description="of everything random")


@dataclass(frozen=True, slots=True)
class JointBatch:
    """Images of one object and its class index."""

    index: int
    samples: Samples


class JointPass(nn.Module):
    """One training pass: the loss of a batch, so that several ranks wrap a forward call."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, masks: Tensor, index: int) -> Tensor:
        """Return the loss, scalar float32."""
        return segmentation_loss(self.network(images, index).float(), masks)


def joint_stream(
    objects: Sequence[ObjectImages], options: JointOptions, *, start: int = 0, ranks: Ranks | None = None, threads: int = 0
) -> Iterator[JointBatch]:
    """Yield this rank's batches without end, from batch `start` on; orders depend on (seed, epoch) alone.

    Raises:
        UsageError: no object has two images.
    """
    place = ranks or Ranks()
    per_epoch = batches_per_epoch(objects, options, world=place.world)

    def plan() -> Iterator[tuple[int, list[int]]]:
        epoch, offset = divmod(start, per_epoch)
        while True:
            batches = _epoch(objects, options, epoch)
            for k in range(offset, per_epoch):
                yield epoch, batches[k * place.world + place.rank]
            epoch, offset = epoch + 1, 0

    starts = _starts(objects)

    def read(item: tuple[int, list[int]]) -> JointBatch:
        epoch, indices = item
        index = bisect.bisect_right(starts, indices[0]) - 1
        return JointBatch(index, objects[index].read([i - starts[index] for i in indices], draw=epoch))

    if threads == 0:
        yield from map(read, plan())
        return
    with ThreadPoolExecutor(threads) as pool:
        source = plan()
        waiting = [pool.submit(read, next(source)) for _ in range(AHEAD * threads)]
        while True:
            done = waiting.pop(0)
            waiting.append(pool.submit(read, next(source)))
            yield done.result()


def batches_per_epoch(objects: Sequence[ObjectImages], options: JointOptions, *, world: int = 1) -> int:
    """Return the batches of one rank in an epoch.

    Raises:
        UsageError: fewer batches than ranks.
    """
    count = len(_epoch(objects, options, 0)) // world
    if count == 0:
        raise UsageError(
            f"{len(objects)} objects give fewer batches than there are ranks ({world})",
            expected="objects with at least 2 images",
            fix="Add data or lower --batch_size",
        )
    return count


def _starts(objects: Sequence[ObjectImages]) -> list[int]:
    starts, total = [], 0
    for one in objects:
        starts.append(total)
        total += len(one)
    return starts


def _epoch(objects: Sequence[ObjectImages], options: JointOptions, epoch: int) -> list[list[int]]:
    rng = random.Random(options.seed * 1_000_003 + epoch)
    lengths = [len(one) for one in objects]
    return joint_batches(lengths, batch_size=options.batch_size, balance=options.num_balance, rng=rng, partial="keep")


def build_joint(config: NetworkConfig, options: JointOptions, classes: int) -> nn.Module:
    """Return an untrained network for `classes` objects."""
    if options.model == "MultiDeeplab":
        return MultiDeepLab()
    return Multinet(classes, build_hypernet(config), build_encoder(config))


def train_joint(
    network: nn.Module,
    objects: Sequence[ObjectImages],
    options: JointOptions,
    *,
    out: Path,
    ranks: Ranks | None = None,
    precision: Precision = "fp32",
    threads: int = 0,
    save_every: int | None = None,
    save_best: bool = True,
    tensorboard: bool = False,
    progress: bool = False,
) -> Path:
    """Train, or go on with what `out` holds, and return `pretrain_last.pth`.

    Besides it: `log.jsonl`, `eval/log_epoch_EEEE_acc_A.json`, `pretrain_best.pth`, `pretrain_info.json` (what redundancy removal
    reads), checkpoints to go on from.

    Args:
        network: from `build_joint`, with its start weights, on the rank's device.
        objects: index = class.
        options: what changes results.
        out: folder.
        ranks: this process's place.
        precision: of the passes.
        threads: readers.
        save_every: steps between checkpoints; None = an epoch.
        save_best: write `pretrain_best.pth`.
        tensorboard: also write its logs.
        progress: show a bar.

    Raises:
        UsageError: the folder holds a run with other settings, or there is too little data.
        VosError: a loss that is not finite; an interrupt, after saving.
    """
    place = ranks or Ranks()
    backbone = getattr(network, "backbone", None)
    if options.freeze_backbone and backbone is not None:
        backbone.requires_grad_(False)
    network.train()
    per_epoch = batches_per_epoch(objects, options, world=place.world)
    steps_per_epoch = max(1, per_epoch // options.accumulate)
    total = options.epochs * steps_per_epoch
    fingerprint = {**options.model_dump(mode="json"), "world": place.world, "objects": [one.name for one in objects]}
    for free in ("eval_step", "eval_n", "metric"):
        fingerprint.pop(free)
    state = TrainingState(
        network,
        rmsprop(network, lr=options.lr),
        every(options.lr_step * steps_per_epoch, gamma=options.gamma),
        options=LoopOptions(
            steps=total,
            accumulate=options.accumulate,
            precision=precision,
            clip_value=options.clip_value,
            log_every=max(1, min(100, steps_per_epoch)),
            save_every=save_every or steps_per_epoch,
            seed=options.seed + 100 * place.rank,
            fingerprint=fingerprint,
        ),
        folder=out,
        ranks=place,
    )
    state.resume()
    stream = joint_stream(objects, options, start=state.step * options.accumulate, ranks=place, threads=threads)
    log = RunLog(out, total=total, start=state.step, active=place.main, tensorboard=tensorboard, progress=progress)
    wrapped = JointPass(network)

    def compute(model: nn.Module, batch: JointBatch, step: int) -> StepLoss:
        samples = batch.samples.to(place.device)
        return StepLoss(model(samples.images, samples.masks, batch.index))

    try:
        for epoch in range(state.step // steps_per_epoch, options.epochs + 1):
            if epoch and (epoch % options.eval_step == 0 or epoch == options.epochs) and state.step == epoch * steps_per_epoch:
                if place.main:
                    _evaluate_epoch(network, objects, options, epoch, out, place, precision=precision, save_best=save_best)
                place.barrier()
            if epoch < options.epochs:
                state.options = replace(state.options, steps=(epoch + 1) * steps_per_epoch)
                run_loop(state, stream, compute, log, module=wrapped, find_unused=True)
    finally:
        log.close()
    last = out / "pretrain_last.pth"
    if place.main:
        save_checkpoint(last, network.state_dict())
    place.barrier()
    return last


def _evaluate_epoch(
    network: nn.Module,
    objects: Sequence[ObjectImages],
    options: JointOptions,
    epoch: int,
    out: Path,
    ranks: Ranks,
    *,
    precision: Precision,
    save_best: bool,
) -> None:
    folder = out / "eval"
    earlier = list(folder.glob("log_epoch_*_acc_*.json")) if folder.is_dir() else []
    if any(path.name.startswith(f"log_epoch_{epoch:04d}_") for path in earlier):
        return  # a resumed run has this one
    rows = evaluate_joint(network, objects, options, epoch=epoch, device=ranks.device, precision=precision)
    mean = sum(row["acc"] for row in rows) / len(rows)
    best = max((float(path.stem.rpartition("_")[2]) for path in earlier), default=-1.0)
    if mean > best:
        if save_best:
            save_checkpoint(out / "pretrain_best.pth", network.state_dict())
        write_json(out / "pretrain_info.json", rows)
    write_json(folder / f"log_epoch_{epoch:04d}_acc_{mean:.6f}.json", rows)


def evaluate_joint(
    network: nn.Module,
    objects: Sequence[ObjectImages],
    options: JointOptions,
    *,
    epoch: int = 0,
    device: torch.device | None = None,
    precision: Precision = "fp32",
) -> list[dict[str, Any]]:
    """Return `{index, obj_name, data_dir, eval_len, acc}` per object, in training mode as published; training is not disturbed.

    Random numbers and running statistics are put back, so that evaluating more often changes nothing.
    """
    place = torch.device("cpu") if device is None else device
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    rows: list[dict[str, Any]] = []
    devices = [place] if place.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(options.seed * 1_000_003 + epoch)
        for index, data in enumerate(objects):
            count = len(data) if options.eval_n < 0 else min(options.eval_n, len(data))
            chosen = tuple(sorted(torch.randperm(len(data)).tolist()[:count])) if count < len(data) else tuple(range(len(data)))
            scores, sizes = [], []
            for indices in evaluation_batches(chosen, options.batch_size, partial="keep"):
                samples = data.read(indices, draw=epoch).to(place)
                with autocast(precision, place):
                    logits = network(samples.images, index).float()
                scores.append(batch_quality(torch.sigmoid(logits) > 0.5, samples.masks, metric=options.metric))
                sizes.append(len(indices))
            acc = sum(score * size for score, size in zip(scores, sizes, strict=True)) / sum(sizes)
            name = Path(data.name).name
            rows.append({"index": index, "obj_name": name, "data_dir": data.name, "eval_len": count, "acc": acc})
    own = dict(network.named_buffers())
    for key, value in buffers.items():
        own[key].copy_(value)
    return rows


def read_joint_evaluations(out: Path) -> list[tuple[int, float]]:
    """Return (epoch, mean quality) of every evaluation in a folder, in order."""
    found = []
    for path in sorted((out / "eval").glob("log_epoch_*_acc_*.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))
        found.append((int(path.name[10:14]), sum(row["acc"] for row in rows) / len(rows)))
    return found
