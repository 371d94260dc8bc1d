"""Networks and codes that a stage begins with, from whichever files were named."""

from __future__ import annotations

from pathlib import Path

import torch

from object_pursuit.config import PRESETS, NetworkConfig
from object_pursuit.model import build_encoder, build_hypernet
from object_pursuit.pursuit.loop import StartPoint
from object_pursuit.weights import (
    load_backbone,
    load_hypernet,
    network_config_of,
    read_bases,
    read_state,
    start_encoder,
)
from vos_core.errors import UsageError


def choose_config(preset: str | None, *, use_backbone: bool, hypernet: Path | None, z_dim: int | None) -> NetworkConfig:
    """Return what the network is: what the hypernetwork's file says, else the preset, else the published one.

    Args:
        preset: name in `PRESETS`.
        use_backbone: without a preset: a shared encoder, or everything generated.
        hypernet: file that will be loaded.
        z_dim: numbers in a code; None = the preset's.

    Raises:
        UsageError: an unknown preset, or one that contradicts another option.
        WeightsError: the file fits no preset.
    """
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"there is no preset '{preset}'", expected=f"one of: {', '.join(PRESETS)}")
    if hypernet is not None and preset is None:
        config = network_config_of(read_state(hypernet), source=str(hypernet))
        if use_backbone and config.encoder == "generated":
            raise UsageError(f"{hypernet} generates its encoder", fix="Leave out --use_backbone")
    else:
        config = PRESETS[preset or ("backbone" if use_backbone else "full")]
    if z_dim is not None and z_dim != config.z_dim:
        if hypernet is not None:
            raise UsageError(f"--z_dim {z_dim} with codes of {config.z_dim} numbers in {hypernet}", fix="Leave out --z_dim")
        config = config.model_copy(update={"z_dim": z_dim})
    return config


def prepare_start(
    config: NetworkConfig,
    *,
    hypernet: Path | None = None,
    backbone: Path | None = None,
    backbone_init: str = "torchvision",
    bases: Path | None = None,
    objects: Path | None = None,
    seed: int = 0,
) -> StartPoint:
    """Return networks and codes; what no file gives is drawn from the seed.

    Args:
        config: of the networks.
        hypernet: a pursuit's `hypernet.pth` or a joint checkpoint.
        backbone: a pursuit's `backbone.pth` or a joint checkpoint; a loaded encoder is not trained.
        backbone_init: of an encoder without a file: `torchvision`, `random` or a file of ImageNet weights.
        bases: folder of code files or a joint checkpoint.
        objects: likewise, codes of known objects; None = the bases.
        seed: of what is drawn.

    Raises:
        UsageError: a path that does not exist.
        WeightsError: a file that cannot be read or does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, encoder = build_hypernet(config), build_encoder(config)
    if hypernet is not None:
        load_hypernet(network, hypernet)
    if encoder is None and backbone is not None:
        raise UsageError("this network generates its encoder", fix="Leave out --backbone, or add --use_backbone")
    if encoder is not None:
        if backbone is not None:
            load_backbone(encoder, backbone)
        else:
            start_encoder(encoder, init=backbone_init)
    return StartPoint(
        config,
        network,
        encoder,
        encoder_trainable=backbone is None,
        bases=None if bases is None else read_bases(bases),
        objects=None if objects is None else read_bases(objects),
    )
