"""Table 4 in small: accuracy on unseen objects from n images, as a combination of bases and as a free code."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from object_pursuit.data.order import few_shot_frames
from object_pursuit.experiment.learned import Learned
from object_pursuit.experiment.plan import ExperimentPlan
from object_pursuit.experiment.world import World
from object_pursuit.fit import ONE_SHOT, Fitter
from object_pursuit.latent import code_logits
from object_pursuit.model import Coeffnet, Singlenet
from object_pursuit.quality import dice
from object_pursuit.segmenter import frozen_encoder

Kinds = Mapping[str, Mapping[str, float]]
"""`bases` and `free` -> number of images -> mean held-out Dice."""


def few_shot(
    state: Learned, bases: torch.Tensor, world: World, plan: ExperimentPlan, *, seed: int
) -> dict[str, dict[str, float]]:
    """Return mean held-out Dice over unseen objects, for each number of training images.

    Args:
        state: networks, frozen here.
        bases: codes to combine `(K, z_dim)`.
        world: where the unseen objects are.
        plan: how many objects, images and steps.
        seed: of codes, orders and dropout.
    """
    hypernet = state.hypernet.requires_grad_(False)
    encoder = frozen_encoder(state.encoder, "batch")
    options = ONE_SHOT.model_copy(update={"lr": plan.coefficient_lr, "batch": plan.batch})
    found: dict[str, dict[str, float]] = {"bases": {}, "free": {}}
    for kind, scores in found.items():
        for shots in plan.shots:
            total = 0.0
            for place, one in enumerate(world.unseen[: plan.shot_objects]):
                torch.manual_seed(10_000 * seed + 100 * place + shots)
                network: Coeffnet | Singlenet
                network = Coeffnet(hypernet, encoder, bases=bases) if kind == "bases" else Singlenet(hypernet, encoder)
                fitter = Fitter(network, options)
                frames = few_shot_frames(len(one), shots)
                for step in range(plan.shot_steps):
                    chosen = torch.randint(len(frames), (plan.batch,)).tolist()
                    fitter.step(one.read([frames[index] for index in chosen], draw=step))
                heldout = world.heldout[one.name]
                with torch.no_grad():
                    logits = code_logits(hypernet, encoder, network.code()[None], heldout.images)
                total += float(dice((logits > 0).float(), heldout.masks).mean())
            scores[str(shots)] = total / plan.shot_objects
    return found
