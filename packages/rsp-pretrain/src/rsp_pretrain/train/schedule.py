"""Learning rate over fractional epochs, and which parameters decay or learn slower."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import nn

from vos_core.training.optim import layer_decay, no_decay_for_vectors, parameter_groups
from vos_core.training.schedule import Schedule

BETAS = (0.9, 0.95)


def learning_rate(epoch: float, *, lr: float, min_lr: float, warmup_epochs: float, epochs: float) -> float:
    """Return the rate at a fractional epoch: a line from 0 over the warm-up, then half a cosine to `min_lr`."""
    if epoch < warmup_epochs:
        return lr * epoch / warmup_epochs
    progress = (epoch - warmup_epochs) / (epochs - warmup_epochs) if epochs > warmup_epochs else 1.0
    return min_lr + (lr - min_lr) * 0.5 * (1.0 + math.cos(math.pi * progress))


def rate_schedule(*, epochs_per_step: float, lr: float, min_lr: float, warmup_epochs: float, epochs: float) -> Schedule:
    """Return step -> factor on the base rate, for the training loop; the published recipe sets the rate once a step."""

    def factor(step: int) -> float:
        rate = learning_rate(step * epochs_per_step, lr=lr, min_lr=min_lr, warmup_epochs=warmup_epochs, epochs=epochs)
        return rate / lr if lr else 0.0

    return factor


def layer_of(name: str, depth: int) -> int:
    """Return the depth of a parameter: 0 for what makes tokens, i + 1 for encoder block i, `depth + 1` for all that follows.

    >>> layer_of("blocks.3.norm1.weight", 12), layer_of("decoder_blocks.0.norm1.weight", 12)
    (4, 13)
    """
    if name in ("cls_token", "pos_embed") or name.startswith("patch_embed."):
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else depth + 1


def optimizer_groups(
    named: Iterable[tuple[str, nn.Parameter]],
    *,
    lr: float,
    weight_decay: float,
    decay_factor: float | None = None,
    depth: int = 0,
) -> list[dict[str, Any]]:
    """Return optimiser groups: first without weight decay (vectors: biases, norms), then with it, as checkpoints number them.

    Args:
        named: parameters by name; frozen ones are left out.
        lr: rate of the last layers.
        weight_decay: of matrices and tokens.
        decay_factor: layer decay: each encoder layer learns by this factor slower than the next; None = all alike.
        depth: encoder blocks, for layer decay.
    """
    rate = (
        lr
        if decay_factor is None
        else layer_decay(lr, factor=decay_factor, depth=lambda name: layer_of(name, depth), layers=depth + 1)
    )
    groups = parameter_groups(named, lr=rate, weight_decay=no_decay_for_vectors(weight_decay))
    return sorted(groups, key=lambda group: bool(group["names"]) and group["params"][0].ndim > 1)
