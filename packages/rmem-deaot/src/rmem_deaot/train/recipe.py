"""Rates, decays, freezing and averaging of a stage: spec section 4.2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from rmem_deaot.train.stages import Stage
from vos_core.training.ema import Ema, warming_decay
from vos_core.training.optim import no_decay_for_vectors, parameter_groups
from vos_core.training.schedule import Schedule, polynomial, warmed

WARM_UP = 0.05
"""Share of the steps in which the rate rises."""
POWER = 0.9
ENCODER_RATIO = 0.1
NO_DECAY = ("absolute_pos_embed", "relative_position_bias_table", "relative_emb_v", "conv_out")
"""Parts of names of tensors that do not decay, beside all one-dimensional ones."""
IDENTITY_BANK = "patch_wise_id_bank"
CLIP_NORM = 5.0


def rate_schedule(steps: int, *, warm_up: float = WARM_UP, power: float = POWER) -> Schedule:
    """Return step -> share of the way from a group's floor to its rate: a line over `warm_up` of the steps, then a polynomial."""
    warm = int(warm_up * steps)
    return warmed(polynomial(steps - warm, power=power), steps=warm) if warm else polynomial(steps, power=power)


def parameter_groups_of(
    network: nn.Module, stage: Stage, *, no_decay: Sequence[str] = NO_DECAY, encoder_ratio: float = ENCODER_RATIO
) -> list[dict[str, Any]]:
    """Return the optimiser's groups: the encoder learns at a tenth, and the identity bank freezes half way if the stage says so.

    Args:
        network: whose trainable parameters are grouped.
        stage: rates, decay, steps.
        no_decay: see `NO_DECAY`.
        encoder_ratio: of the encoder's rate above the floor to that of the rest.
    """
    parts: dict[str, list[tuple[str, nn.Parameter]]] = {"encoder.": [], IDENTITY_BANK: [], "": []}
    for name, parameter in network.named_parameters():
        parts[next(part for part in parts if part in name)].append((name, parameter))
    groups = []
    for part, named in reversed(parts.items()):  # the first group's rate is the one that is logged
        rate = stage.min_lr + (encoder_ratio if part == "encoder." else 1.0) * (stage.lr - stage.min_lr)
        decay = no_decay_for_vectors(stage.weight_decay, names=tuple(no_decay))
        for group in parameter_groups(named, lr=rate, weight_decay=decay):
            group["floor"] = stage.min_lr
            if part == IDENTITY_BANK and stage.own_masks:
                group["frozen_from"] = int(0.5 * stage.steps)
            groups.append(group)
    return groups


def average_of(network: nn.Module, steps: int) -> Ema:
    """Return the average of the trainable weights that a stage of `steps` steps keeps; its weights are the ones evaluated."""
    return Ema(network, warming_decay(1 - 1 / max(0.1 * steps, 1.0)))
