"""What a stage starts from: weights of the stage before, an ImageNet encoder, or nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from rmem_deaot.config import VARIANTS, EncoderName
from rmem_deaot.model.frozen_norm import FrozenBatchNorm2d
from rmem_deaot.model.network import AOTNetwork
from rmem_deaot.train.samples import ClipBatch
from rmem_deaot.weights import load_into, widen_id_bank
from vos_core.errors import WeightsError
from vos_core.weights.imagenet import imagenet_state
from vos_core.weights.load import load_state

Init = Literal["imagenet", "random"]

PUBLISHED_ENCODERS: Mapping[EncoderName, str] = {
    "mobilenetv2": "mobilenet_v2",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "swin_base": "swin_base",
}
_NEW = re.compile(r"(cur|mem)_pos_emb|LSTT\.layers\.\d+\.(linear_(Q|K|V)Mem|norm4)\.(weight|bias)")
"""What a form adds to the weights that it starts from: temporal positions, VOST's recurrent short-term path."""
_GONE = re.compile(r"LSTT\.layers\.\d+\.short_term_attn\.relative_emb_.*")
"""What VOST's recurrent path has no use for."""


def start_network(variant: str, *, previous: Path | None, init: Init, seed: int, sample: ClipBatch | None = None) -> AOTNetwork:
    """Return the network that a stage starts from.

    Args:
        variant: which one.
        previous: weights to start from, of this form or of the one it grows out of; None = a first stage.
        init: of a first stage: an ImageNet encoder, or all random.
        seed: of everything random.
        sample: clips whose images set the frozen norms of a random encoder.

    Raises:
        WeightsError: a file cannot be had, read, or does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AOTNetwork(VARIANTS[variant].network)
    if previous is not None:
        load_into(network, grown(load_state(previous), network), source=str(previous))
    elif init == "imagenet":
        load_encoder(network, imagenet_state(PUBLISHED_ENCODERS[network.config.encoder]))
    elif sample is not None:
        set_norms(network, sample.normalised.flatten(0, 1))
    return network


def grown(state: Mapping[str, Tensor], network: AOTNetwork) -> dict[str, Tensor]:
    """Return `state` with what `network` has beyond the form that the weights are of; everything else must fit by itself.

    Added, at their initial values, are temporal positions, a 12th channel of the identity bank, and VOST's recurrent path.
    """
    own = network.state_dict()
    recurrent = network.config.short_term == "recurrent"
    kept = {key: value for key, value in state.items() if not (recurrent and _GONE.fullmatch(key))}
    added = {key: value for key, value in own.items() if key not in kept and _NEW.fullmatch(key)}
    return widen_id_bank(kept | added, network)


def load_encoder(network: AOTNetwork, state: Mapping[str, Tensor]) -> None:
    """Copy a classifier's weights into the encoder; what the encoder has no part for is dropped.

    Raises:
        WeightsError: a weight of the encoder is absent, but for the output norms that Swin has here alone.
    """
    own = network.encoder.state_dict()
    absent = [key for key in own if key not in state and not re.fullmatch(r"norm\d\..*|.*relative_position_index", key)]
    if absent:
        raise WeightsError(
            f"the encoder's weights lack {', '.join(absent[:5])}", expected=f"a classifier of {network.config.encoder}"
        )
    network.encoder.load_state_dict({key: state.get(key, value) for key, value in own.items()})


@torch.no_grad()
def set_norms(network: AOTNetwork, images: Tensor) -> None:
    """Let the frozen norms normalise these images `(B, 3, H, W)`.

    They never learn, and with identity statistics a random encoder's signal would grow or die block by block.
    """

    def take(norm: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, FrozenBatchNorm2d)
        norm.running_mean.copy_(given[0].mean((0, 2, 3)))
        norm.running_var.copy_(given[0].var((0, 2, 3)).clamp(min=1e-6))

    norms = [module for module in network.encoder.modules() if isinstance(module, FrozenBatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(take) for norm in norms]
    try:
        network.encode_image(images)
    finally:
        for hook in hooks:
            hook.remove()
