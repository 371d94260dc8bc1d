"""What the experiment does, as data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from vos_core.config import Config

TABLES = (1, 2, 3, 4, 5, 6)
"""Tables of the paper that the experiment repeats in small."""


class ExperimentPlan(Config):
    """Sizes and thresholds; the defaults are those of the description, and take one CPU core about a minute for each pursuit."""

    pretrain_objects: int = Field(default=8, ge=2, description="objects 0, 1, ... of joint pretraining")
    stream_objects: int = Field(default=9, ge=1, description="the objects after them, pursued one after the other")
    unseen_objects: int = Field(default=6, ge=1, description="the objects after those, never trained on")
    images: int = Field(default=32, ge=8, description="pictures of an object to train on")
    heldout: int = Field(default=16, ge=2, description="further pictures of every object, for all scores of the page")
    joint_epochs: int = Field(default=8, ge=1, description="passes of joint pretraining")
    joint_lr: float = Field(default=4e-4, gt=0, description="its learning rate")
    batch: int = Field(default=8, ge=2, description="images in a batch")
    val_share: float = Field(
        default=1.0, gt=0, le=1, description="share of images held out; 1 = score all: with few, decisions are noise"
    )
    tau: float = Field(default=0.7, gt=0, lt=1, description="threshold of the stream that the assertions are about")
    beta: float = Field(default=0.04, ge=0, description="weight of the memory term")
    seen_every: int = Field(default=4, ge=1, description="objects between two re-insertions of an earlier one")
    coefficient_epochs: int = Field(default=10, ge=1, description="epochs of a coefficient fit at most")
    coefficient_lr: float = Field(default=5e-3, gt=0, description="its learning rate")
    coefficient_patience: int = Field(default=3, ge=1, description="its patience")
    base_epochs: int = Field(default=14, ge=1, description="epochs of a new base at most")
    base_lr: float = Field(default=4e-4, gt=0, description="its learning rate")
    base_patience: int = Field(default=5, ge=1, description="its patience")
    forced_bases: int = Field(default=2, ge=1, description="new bases forced one after the other, with and without memory")
    forced_epochs: int = Field(default=10, ge=1, description="epochs of each of them")
    taus: tuple[float, ...] = Field(default=(0.5, 0.6, 0.7, 0.8), description="thresholds of tables 1 to 4")
    betas: tuple[float, ...] = Field(default=(0.0, 0.02, 0.04, 0.1), description="weights of table 6")
    orders: int = Field(default=3, ge=1, description="random orders of table 5")
    order_tau: float = Field(default=0.6, gt=0, lt=1, description="threshold of tables 5 and 6, as in the paper")
    shots: tuple[int, ...] = Field(default=(1, 5, 10, 32), description="training images of table 4; the last one is all")
    shot_objects: int = Field(default=3, ge=1, description="unseen objects of table 4")
    shot_steps: int = Field(default=60, ge=1, description="steps of a fit of table 4")
    preset: Literal["tiny"] = Field(default="tiny", description="network")

    @field_validator("taus", "betas", "shots")
    @classmethod
    def _some(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value:
            raise ValueError("must not be empty")
        return value

    @property
    def objects(self) -> int:
        """All objects of the world."""
        return self.pretrain_objects + self.stream_objects + self.unseen_objects
