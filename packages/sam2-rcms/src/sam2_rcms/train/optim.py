"""Learning rates and decays by parameter: slower image encoder, layer decay in its trunk, no decay for biases and norms."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from sam2_rcms.train.config import OptimizerConfig
from vos_core.training.optim import Rule, build_optimizer, parameter_groups
from vos_core.training.schedule import Schedule, cosine

TRUNK = "image_encoder.trunk."


def training_groups(network: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Return the parameter groups of AdamW, frozen parameters among them (spec 4.6).

    Args:
        network: a SAM 2.1 network.
        config: rates and decays.
    """
    plain = {
        f"{name}.{part}"
        for name, module in network.named_modules()
        if isinstance(module, nn.LayerNorm)
        for part in ("weight", "bias")
    }

    def decay(name: str, parameter: nn.Parameter) -> float:
        return 0.0 if "bias" in name or name in plain else config.weight_decay

    rate = _rate(network, config)
    return parameter_groups(network.named_parameters(), lr=rate, weight_decay=decay, keep_frozen=True)


def _rate(network: nn.Module, config: OptimizerConfig) -> Rule:
    numbers = [_block(name) for name, _ in network.named_parameters()]
    last = max((number for number in numbers if number is not None), default=0) + 1

    def rate(name: str, parameter: nn.Parameter) -> float:
        if not name.startswith("image_encoder."):
            return config.base_lr
        level = _block(name)
        return config.vision_lr if level is None else config.vision_lr * config.layer_decay ** (last - level)

    return rate


def _block(name: str) -> int | None:
    """Return the depth of a trunk parameter: 0 = patch embedding, i + 1 = block i; None where no layer decay holds."""
    if not name.startswith(TRUNK) or "pos_embed" in name:
        return None
    match = re.match(r"blocks\.(\d+)\.", name.removeprefix(TRUNK))
    if match:
        return int(match[1]) + 1
    return 0 if "patch_embed" in name else None


def training_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return AdamW over `training_groups`."""
    return build_optimizer("adamw", training_groups(network, config), betas=config.betas, eps=config.eps)


def training_schedule(config: OptimizerConfig, *, steps: int) -> Schedule:
    """Return the half cosine from the first rates to `end_factor` of them."""
    return cosine(steps, floor=config.end_factor)
