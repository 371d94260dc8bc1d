"""Adapting a network to one clip: refresh pseudo-masks, draw sequences, a few steps of a new Adam, again (spec section 3)."""

from __future__ import annotations

import math
import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import nn

from stcn_ttt.adapt.backbone import Backbone, freeze_layers
from stcn_ttt.adapt.config import TttConfig
from stcn_ttt.adapt.objective import Sequences, loss_of
from stcn_ttt.adapt.pseudo import PseudoMasks
from stcn_ttt.adapt.sequences import SequenceMaker
from vos_core.contract import FrameReader, Precision
from vos_core.errors import ClipWarning, ConfigError, VosError
from vos_core.run.work import report_work
from vos_core.training.allocator import keep_freed_memory
from vos_core.training.loop import autocast
from vos_core.training.optim import build_optimizer
from vos_core.types import Prompt

Prompts = Mapping[int, Sequence[Prompt]]


class Propagate(Protocol):
    """Segments a clip with the network's current weights."""

    def __call__(self, frames: FrameReader, prompts: Prompts, *, stop: int | None) -> PseudoMasks:
        """Return label maps of the frames from the first prompt on, before `stop` (None: to the end)."""
        ...


@dataclass(slots=True)
class AdaptReport:
    """What an adaptation did: every step's loss, and seconds spent in steps and in refreshing pseudo-masks."""

    losses: list[float] = field(default_factory=list)
    step_seconds: float = 0.0
    refresh_seconds: float = 0.0
    skipped: str | None = None


def adapt_network(
    network: nn.Module,
    backbone: Backbone,
    frames: FrameReader,
    prompts: Prompts,
    *,
    config: TttConfig,
    propagate: Propagate,
    seed: int,
    name: str,
    device: torch.device,
    precision: Precision = "fp32",
    batches: Callable[[int, int], Sequences] | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> AdaptReport:
    """Train `network` in place on one clip and return a report.

    The sequences of jump step j depend on (seed, name, j) alone.

    Args:
        network: holds the parameters.
        backbone: the same network behind the protocol.
        frames: the clip.
        prompts: given masks by frame index.
        config: everything else.
        propagate: segments the clip with the current weights.
        seed: of the sampling.
        name: of the clip.
        device: of the network.
        precision: of the steps; weights and Adam stay in fp32.
        batches: `(jump step, iteration) -> batch` in place of the sampler, for tests.
        on_step: told (steps done, steps in all, loss).

    Raises:
        ConfigError: everything that the loss depends on is frozen.
        VosError: the loss is not finite.
    """
    report = AdaptReport()
    annotated = sorted(prompts)
    total = config.ttt_number_jump_steps * len(config.rounds) * config.ttt_number_iterations_per_jump_step
    if total == 0:
        return report
    if len(frames) - annotated[0] < 2 and config.ttt_loss != "tt-ae":
        return _skipped(report, f"clip '{name}' has one frame from its first mask on; {config.ttt_loss} needs two")
    freeze_layers(network, config.ttt_frozen_layers)
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trainable:
        raise _all_frozen(config)
    keep_freed_memory()
    masks = PseudoMasks()
    for step in range(config.ttt_number_jump_steps):
        for place, (length, max_jump) in enumerate(config.rounds):
            begin = time.perf_counter()
            if _stale(masks, config):
                masks = propagate(frames, prompts, stop=_needed(annotated, config))
            report.refresh_seconds += time.perf_counter() - begin
            begin = time.perf_counter()
            rng = np.random.RandomState(zlib.crc32(f"{seed}:{name}:{step}:{place}".encode()))
            maker = SequenceMaker(frames, masks, annotated, config=config, rng=rng, device=device)
            if not maker.shows_objects:
                # Weight decay alone would move every weight by a whole step of Adam.
                return _skipped(report, f"the masks given for clip '{name}' show no object")
            # Moments begin anew at every jump step.
            optimizer = build_optimizer("adam", [{"params": trainable}], lr=config.ttt_lr, weight_decay=1e-7)
            for iteration in range(config.ttt_number_iterations_per_jump_step):
                if batches is not None:
                    batch = batches(step, iteration)
                else:
                    batch = maker.batch(config.ttt_batch_size, length=length, max_jump=max_jump)
                report.losses.append(_one_step(backbone, optimizer, batch, config, device=device, precision=precision))
                if not math.isfinite(report.losses[-1]):
                    raise VosError(
                        f"the {config.ttt_loss} loss of clip '{name}' is {report.losses[-1]} at step {len(report.losses)}",
                        fix="Lower --ttt-lr, or adapt in fp32",
                    )
                report_work("adapting", len(report.losses), total)
                if on_step is not None:
                    on_step(len(report.losses), total, report.losses[-1])
            optimizer.zero_grad(set_to_none=True)
            report.step_seconds += time.perf_counter() - begin
    return report


def _skipped(report: AdaptReport, reason: str) -> AdaptReport:
    report.skipped = f"{reason}, so it is not adapted"
    warnings.warn(report.skipped, ClipWarning, stacklevel=3)
    return report


def _all_frozen(config: TttConfig) -> ConfigError:
    return ConfigError(
        f"ttt_frozen_layers {','.join(config.ttt_frozen_layers)} leaves nothing that {config.ttt_loss} could train",
        fix="Freeze less, or free the norms again with ubn behind it",
    )


def _one_step(
    backbone: Backbone,
    optimizer: torch.optim.Optimizer,
    batch: Sequences,
    config: TttConfig,
    *,
    device: torch.device,
    precision: Precision,
) -> float:
    optimizer.zero_grad(set_to_none=True)
    with autocast(precision, device):
        loss = loss_of(backbone, batch, config.ttt_loss, encode_first=config.ttt_encode_first)
    if not loss.requires_grad:
        raise _all_frozen(config)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(loss.detach())


def _stale(masks: PseudoMasks, config: TttConfig) -> bool:
    """Return whether pseudo-masks are to be made now: once, and again for each round of the cycle."""
    return len(masks) == 0 or config.ttt_loss == "tt-mcc"


def _needed(annotated: Sequence[int], config: TttConfig) -> int | None:
    """Return before which frame propagation may stop: entropy and auto-encoding look at masks of annotated frames only."""
    return None if config.ttt_loss == "tt-mcc" else annotated[-1] + 1
