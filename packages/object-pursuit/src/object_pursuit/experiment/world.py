"""The drawn objects of one seed, in memory: to pretrain on, to pursue, never seen; and held-out pictures of all."""

from __future__ import annotations

from dataclasses import dataclass

from object_pursuit.data.shapes import held_object, object_name
from object_pursuit.experiment.plan import ExperimentPlan
from object_pursuit.samples import HeldImages, Samples


@dataclass(frozen=True, slots=True)
class World:
    """Objects of one seed.

    Args:
        pretrain: of joint pretraining.
        stream: met one after the other.
        unseen: never trained on, for what must not be recognised and for few-shot fits.
        heldout: name -> pictures that no training sees, of every object.
    """

    pretrain: tuple[HeldImages, ...]
    stream: tuple[HeldImages, ...]
    unseen: tuple[HeldImages, ...]
    heldout: dict[str, Samples]


def draw_world(plan: ExperimentPlan, seed: int) -> World:
    """Return the world of a seed; the seed decides stripes and pictures, an object's hue and shape come from its number."""
    train = [held_object(i, plan.images, seed=seed) for i in range(plan.objects)]
    heldout = {object_name(i): held_object(i, plan.heldout, seed=seed, part="heldout").samples for i in range(plan.objects)}
    first, second = plan.pretrain_objects, plan.pretrain_objects + plan.stream_objects
    return World(tuple(train[:first]), tuple(train[first:second]), tuple(train[second:]), heldout)
