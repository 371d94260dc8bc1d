"""Joint pretraining of the experiment's network on drawn objects."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from object_pursuit.config import PRESETS
from object_pursuit.data.order import joint_batches
from object_pursuit.experiment.learned import Learned
from object_pursuit.experiment.plan import ExperimentPlan
from object_pursuit.experiment.world import World
from object_pursuit.fit.fitter import rmsprop, segmentation_loss
from object_pursuit.model import Multinet, build_encoder, build_hypernet

CLIP = 0.1


def pretrain(world: World, plan: ExperimentPlan, *, seed: int) -> Learned:
    """Return the network after joint pretraining, with a code per object and the weights it generates."""
    torch.manual_seed(seed)
    config, objects = PRESETS[plan.preset], world.pretrain
    encoder = build_encoder(config)
    assert encoder is not None
    network = Multinet(len(objects), build_hypernet(config), encoder, dropout="always").train()
    optimizer, rng = rmsprop(network, lr=plan.joint_lr), random.Random(seed)
    for _ in range(plan.joint_epochs):
        for batch in joint_batches([plan.images] * len(objects), batch_size=plan.batch, rng=rng):
            owner, images = batch[0] // plan.images, [index % plan.images for index in batch]
            samples = objects[owner].read(images, draw=0)
            optimizer.zero_grad(set_to_none=True)
            segmentation_loss(network(samples.images, owner), samples.masks).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_value_(network.parameters(), CLIP)
            optimizer.step()
    state = Learned(network.hypernet, encoder)
    for one, code in zip(objects, network.z, strict=True):
        state.remember(one.name, code)
    return state


def save_learned(path: Path, state: Learned) -> None:
    """Write a joint checkpoint, which `pursue`, `infer` and `explore` take as well."""
    from vos_core.training.checkpoint import save_checkpoint

    parts = {"hypernet": state.hypernet, "backbone": state.encoder}
    tensors = {f"{name}.{key}": value.cpu() for name, part in parts.items() for key, value in part.state_dict().items()}
    save_checkpoint(path, {"z": torch.stack(state.codes), **tensors})


def load_learned(path: Path, names: Sequence[str]) -> Learned:
    """Return what `save_learned` wrote, with the weights that the codes generate.

    Raises:
        WeightsError: the file cannot be read or does not fit.
    """
    from object_pursuit.parts import load_parts

    parts = load_parts(path)
    assert parts.encoder is not None
    state = Learned(parts.hypernet, parts.encoder)
    for name, code in zip(names, parts.codes, strict=True):
        state.remember(name, code)
    return state
