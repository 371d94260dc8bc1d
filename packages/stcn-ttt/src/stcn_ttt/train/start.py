"""What a stage starts from: the stage before, ImageNet encoders, or random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from stcn_ttt.model import STCN
from stcn_ttt.weights import fit_first_conv, load_network
from vos_core.weights.imagenet import imagenet_state
from vos_core.weights.load import load_state
from vos_core.weights.strict import load_strict

Init = Literal["imagenet", "random"]


def start_network(previous: Path | None, *, single_object: bool, init: Init, seed: int) -> STCN:
    """Return the network a stage starts from.

    Args:
        previous: network file of the stage before; a 4-channel one gets an orthogonal fifth channel. None = a first stage.
        single_object: build the stage-0 form.
        init: of a first stage: encoders from ImageNet, or all random.
        seed: of everything random.

    Raises:
        WeightsError: a file cannot be had, read, or does not fit.
    """
    network = load_network(None, single_object=single_object, seed=seed)
    if previous is not None:
        torch.manual_seed(seed)
        state = load_state(previous)
        state = fit_first_conv(state, single_object=single_object, source=str(previous), start="orthogonal")
        load_strict(network, state, source=str(previous))
    elif init == "imagenet":
        load_encoders(network, imagenet_state("resnet50"), imagenet_state("resnet18"))
    else:
        calm_residuals(network)
    return network


@torch.no_grad()
def calm_residuals(network: STCN) -> None:
    """Set the gain of each residual branch's last norm to 0, so that untrained encoders begin near the identity.

    Norms use fixed statistics, so random branches would double the signal block by block and drown the key soft-max.
    """
    for name, parameter in network.named_parameters():
        last = "bn3" if name.startswith("key_encoder.") else "bn2"
        if name.endswith(f".{last}.weight"):
            parameter.zero_()


@torch.no_grad()
def load_encoders(network: STCN, resnet50: Mapping[str, Tensor], resnet18: Mapping[str, Tensor]) -> None:
    """Copy torchvision's ResNet-50 into the key encoder and ResNet-18 into the value encoder.

    The key encoder calls the first stage `res2`. The value encoder's convolutions have biases, which become zero, and its first
    one has mask channels behind RGB, which keep their orthogonal start.
    """
    key = {_renamed(name): value for name, value in resnet50.items() if not name.startswith(("layer4", "fc"))}
    network.key_encoder.load_state_dict(key)
    value = network.value_encoder.state_dict()
    for name, tensor in resnet18.items():
        if name == "conv1.weight":
            value[name][:, :3] = tensor
        elif not name.startswith(("layer4", "fc")):
            value[name].copy_(tensor)
    for name, tensor in value.items():
        if name.endswith("bias") and not name.startswith("fuser.") and name not in resnet18:
            tensor.zero_()


def _renamed(name: str) -> str:
    return f"res2{name.removeprefix('layer1')}" if name.startswith("layer1.") else name
