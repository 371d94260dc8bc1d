"""The fixed control of the memory term: new bases forced one after the other, with and without it (spec section 9)."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from object_pursuit.experiment.learned import Learned
from object_pursuit.experiment.plan import ExperimentPlan
from object_pursuit.fit import BASE, FitOptions, Fitter, Rehearsal, fit_object
from object_pursuit.model import Singlenet
from object_pursuit.samples import HeldImages


def base_options(plan: ExperimentPlan, *, beta: float) -> FitOptions:
    """Return the options of a forced base: all epochs, so that both controls train equally long."""
    return BASE.model_copy(
        update={
            "lr": plan.base_lr,
            "epochs": plan.forced_epochs,
            "patience": None,
            "batch": plan.batch,
            "val_share": plan.val_share,
            "memory": beta,
        }
    )


def force_bases(start: Learned, objects: Sequence[HeldImages], plan: ExperimentPlan, *, beta: float, seed: int) -> Learned:
    """Return what is known after each object was learned as a new base, the codes before it as memory.

    A stream alone does not test the memory term, since objects that can be expressed never change the hypernetwork.

    Args:
        start: stays as it is.
        objects: learned in this order.
        plan: sizes.
        beta: weight of the memory term.
        seed: of codes, orders and dropout.
    """
    state = start.copy()
    state.encoder.requires_grad_(False)
    options = base_options(plan, beta=beta)
    for place, one in enumerate(objects):
        torch.manual_seed(1000 * seed + place)
        network = Singlenet(state.hypernet.requires_grad_(True), state.encoder, dropout="train")
        targets = [lambda stored=stored: stored for stored in state.stored]
        memory = Rehearsal(torch.stack(state.codes), targets, rng=random.Random(seed + place))
        fit_object(Fitter(network, options, rehearsal=memory), one)
        state.hypernet.requires_grad_(False)
        state.remember(one.name, network.z)
    return state
