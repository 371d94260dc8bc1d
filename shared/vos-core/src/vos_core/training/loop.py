"""The loop that every recipe runs: step, accumulate, clip, schedule, average, log, save, stop cleanly, go on bit for bit."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vos_core.contract import Precision
from vos_core.errors import InterruptError, UsageError, VosError, WeightsError
from vos_core.training.allocator import keep_freed_memory
from vos_core.training.checkpoint import (
    drop_old_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
    seed_everything,
)
from vos_core.training.distributed import Ranks
from vos_core.training.ema import Ema
from vos_core.training.logging import PictureGrid, RunLog
from vos_core.training.schedule import Schedule, apply_schedule


@dataclass(frozen=True, slots=True)
class StepLoss:
    """What a recipe computes from one batch.

    Args:
        loss: scalar to descend.
        values: figures to log, the same ones at every step; lines hold their means since the line before.
        pictures: makes pictures to log; called only when they are due.
    """

    loss: Tensor
    values: Mapping[str, float | Tensor] = field(default_factory=dict)
    pictures: Callable[[], Mapping[str, PictureGrid]] | None = None


LossFunction = Callable[[nn.Module, Any, int], StepLoss]
"""`(model, batch, step) -> StepLoss`; the model may be wrapped for several ranks, so call it, do not look inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOptions:
    """How long and how the loop runs; `fingerprint` names everything else that must not change when a run goes on."""

    steps: int
    accumulate: int = 1
    precision: Precision = "fp32"
    clip_norm: float | None = None
    clip_value: float | None = None
    log_every: int = 100
    picture_every: int = 800
    save_every: int = 1000
    keep: int = 2
    seed: int = 0
    fingerprint: Mapping[str, Any] = field(default_factory=dict)


class TrainingState:
    """The things that change while training, saved and restored together.

    Args:
        model: unwrapped network.
        optimizer: over its parameters; groups carry `initial_lr`.
        schedule: of the learning rate.
        options: of the loop.
        folder: where `checkpoint_<step>.pth` files go.
        ranks: this process's place.
        ema: average of the weights, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        schedule: Schedule,
        *,
        options: LoopOptions,
        folder: Path,
        ranks: Ranks,
        ema: Ema | None = None,
    ) -> None:
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.options, self.folder, self.ranks, self.ema = options, folder, ranks, ema
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=options.precision == "fp16")
        self.step = 0

    def resume(self) -> bool:
        """Go on from the newest checkpoint in the folder; return whether there was one.

        Raises: as `restore`.
        """
        path = newest_checkpoint(self.folder)
        if path is None:
            seed_everything(self.options.seed + self.ranks.rank)
            return False
        self.restore(path)
        return True

    def restore(self, path: Path) -> None:
        """Take over everything in a checkpoint file.

        The four keys `it`, `network`, `optimizer`, `scheduler` are enough (files of the original STCN); what else is missing
        begins anew.

        Raises:
            UsageError: the checkpoint is of a run with other settings.
            WeightsError: it cannot be read or does not fit.
        """
        state = load_checkpoint(path)
        old = state.get("fingerprint", {})
        changed = sorted(key for key, value in self.options.fingerprint.items() if key in old and old[key] != value)
        if changed:
            shown = ", ".join(f"{key}={old[key]!r}" for key in changed)
            raise UsageError(
                f"{path} is of a run with other settings ({shown})", fix="Repeat those settings, or choose another output folder"
            )
        try:
            self.model.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = int(state["it"])
        except (KeyError, ValueError, RuntimeError) as error:
            raise WeightsError(
                f"{path} is no checkpoint of this network ({error})", expected="it, network, optimizer and scheduler"
            ) from error
        if "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None and state.get("ema") is not None:
            self.ema.load_state_dict(state["ema"])
        if len(state.get("random", ())) == self.ranks.world:
            restore_random_state(state["random"][self.ranks.rank])
        else:  # another number of ranks: no generator to go on with, so begin one that depends on where we are
            seed_everything(self.options.seed + self.ranks.rank + 1_000_003 * self.step)

    def save(self) -> Path:
        """Write a checkpoint of this step on the main rank and drop old ones; every rank must call it."""
        states: list[Any] = [None] * self.ranks.world
        if self.ranks.world > 1:
            torch.distributed.all_gather_object(states, random_state())
        else:
            states = [random_state()]
        path = self.folder / f"checkpoint_{self.step}.pth"
        if self.ranks.main:
            save_checkpoint(
                path,
                {
                    "it": self.step,
                    "network": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "scheduler": {"last_epoch": self.step},
                    "scaler": self.scaler.state_dict(),
                    "ema": self.ema.state_dict() if self.ema is not None else None,
                    "random": states,
                    "fingerprint": dict(self.options.fingerprint),
                },
            )
            drop_old_checkpoints(self.folder, keep=self.options.keep)
        self.ranks.barrier()
        return path


def run_loop(
    state: TrainingState,
    batches: Iterator[Any],
    compute: LossFunction,
    log: RunLog,
    *,
    module: nn.Module | None = None,
    find_unused: bool = False,
) -> None:
    """Train from `state.step` to `options.steps`, saving every `save_every` steps, at the end and on Ctrl-C or SIGTERM.

    Args:
        state: already resumed or fresh.
        batches: on `state`'s device or not; `compute` moves them. Position must fit `state.step * accumulate`.
        compute: the recipe.
        log: of this rank.
        module: what `compute` is to call, if not `state.model` itself: a module around it whose forward pass is one whole step.
        find_unused: some parameters get no gradient in some steps (several ranks need to know).

    Raises:
        VosError: the loss is not finite; the step is named and the last checkpoint stays.
        InterruptError: after saving, if the run was interrupted.
    """
    options, ranks = state.options, state.ranks
    keep_freed_memory()
    forward = ranks.wrap(state.model if module is None else module, find_unused=find_unused)
    sums: dict[str, float | Tensor] = {}
    counted = 0
    with _interrupts() as interrupted:
        while state.step < options.steps:
            rate = apply_schedule(state.optimizer, state.schedule, state.step)
            result = _one_step(state, forward, batches, compute)
            state.step += 1
            log.step()
            counted += 1
            for key, value in {"loss": result.loss.detach(), **result.values}.items():
                sums[key] = sums.get(key, 0.0) + value  # stays on the device: reading it every step would stall
            if state.step % options.log_every == 0 or state.step == options.steps:
                means = {key: _plain(value) / counted for key, value in sums.items()}
                log.values(state.step, {**ranks.mean(means), "lr": rate})
                sums, counted = {}, 0
            if result.pictures is not None and state.step % options.picture_every == 0:
                log.pictures(state.step, result.pictures())
            stop = ranks.any(bool(interrupted)) if ranks.world > 1 else bool(interrupted)
            if stop or state.step % options.save_every == 0 or state.step == options.steps:
                state.save()
            if stop:
                raise InterruptError(
                    f"interrupted and saved at step {state.step} in {state.folder}", fix="Run the same command again to go on"
                )


def _one_step(state: TrainingState, forward: nn.Module, batches: Iterator[Any], compute: LossFunction) -> StepLoss:
    options = state.options
    state.optimizer.zero_grad(set_to_none=True)
    for micro in range(options.accumulate):
        last = micro == options.accumulate - 1
        # Gradients are exchanged once a step, with the last micro-batch.
        quiet = forward.no_sync() if not last and isinstance(forward, nn.parallel.DistributedDataParallel) else nullcontext()
        with quiet:
            with autocast(options.precision, state.ranks.device):
                result = compute(forward, next(batches), state.step)
            if not math.isfinite(_plain(result.loss)):
                raise VosError(
                    f"the loss of step {state.step} is {_plain(result.loss)}",
                    fix="Lower the learning rate or train with --precision fp32; the last checkpoint is kept",
                )
            state.scaler.scale(result.loss / options.accumulate).backward()  # type: ignore[no-untyped-call]
    state.scaler.unscale_(state.optimizer)
    parameters = [p for group in state.optimizer.param_groups for p in group["params"] if p.grad is not None]
    if options.clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, options.clip_norm)
    if options.clip_value is not None:
        nn.utils.clip_grad_value_(parameters, options.clip_value)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.ema is not None:
        state.ema.update(state.model)
    return result


def _plain(value: float | Tensor) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else value


def autocast(precision: Precision, device: torch.device) -> torch.amp.autocast_mode.autocast:
    """Return the context in which `precision` computes; nothing changes in fp32."""
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.amp.autocast(device.type, dtype=kind, enabled=precision != "fp32")


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Yield a list that fills when Ctrl-C or SIGTERM arrives, so that the running step can end and be saved."""
    seen: list[int] = []
    try:
        old = {number: signal.signal(number, lambda got, _: seen.append(got)) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: the caller handles signals
        yield seen
        return
    try:
        yield seen
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
