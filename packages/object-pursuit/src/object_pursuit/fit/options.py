"""How one fit runs, with the published values of each kind (spec sections 4.2 to 4.5)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from object_pursuit.quality import Metric
from vos_core.config import Config


class FitOptions(Config):
    """Options of a fit: RMSprop on whatever parameters need gradients."""

    lr: float = Field(default=1e-4, gt=0, description="learning rate of RMSprop (alpha 0.99, momentum 0.9, weight decay 1e-7)")
    epochs: int = Field(default=200, ge=1, description="epochs at most")
    patience: int | None = Field(default=5, ge=1, description="epochs without a better one after which to stop; unset = never")
    batch: int = Field(default=16, ge=1, description="images in a batch")
    val_share: float = Field(
        default=0.1, gt=0, le=1, description="share of images held out for evaluation; 1 = evaluate on the training images"
    )
    max_images: int = Field(default=2500, ge=1, description="images used of an object at most")
    l1: float = Field(default=0.0, ge=0, description="weight of the mean absolute code or coefficient")
    memory: float = Field(default=0.0, ge=0, description="weight of the memory term, beta (0 = forget freely)")
    positive_weight: Literal["batch", "none"] = Field(
        default="batch", description="batch: weight foreground by background per foreground pixel of the batch"
    )
    clip_value: float | None = Field(default=None, gt=0, description="clip each gradient value to +- this; unset = no clipping")
    metric: Metric = Field(default="dice", description="what quality is: mean Dice, or the overlap pooled over a batch")
    eval_every: float = Field(default=1.0, gt=0, description="epochs between evaluations")
    target: float | None = Field(default=None, description="stop as soon as the quality exceeds this")
    keep: Literal["best", "last"] = Field(
        default="best", description="which epoch's network is kept; the original keeps the last"
    )
    partial_batches: Literal["keep", "drop"] = Field(
        default="keep",
        description="keep: small objects get smaller batches, incomplete evaluation batches count; drop: as the original",
    )


COEFFICIENTS = FitOptions(l1=0.2)
"""Expressing an object by bases (alpha 0.2)."""
BASE = FitOptions(l1=0.1, memory=0.04)
"""Learning a new base (alpha 0.1, beta 0.04)."""
ONE_SHOT = FitOptions(
    lr=4e-4,
    epochs=20,
    patience=None,
    batch=8,
    val_share=1.0,
    positive_weight="none",
    clip_value=0.1,
    metric="jaccard_pooled",
    eval_every=10,
)
"""Fitting to the first frames of a sequence."""
