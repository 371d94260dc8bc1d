"""Options of a pursuit; the defaults are the published ones for iThor, `published_options` has those of each data set."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from object_pursuit.fit.options import FitOptions
from object_pursuit.model.network import Dropout
from vos_core.config import Config


class PursuitOptions(Config):
    """Everything that changes a pursuit's results; a resumed run must have the same (spec section 4.2)."""

    tau: float = Field(default=0.7, ge=0, le=1, description="quality (Dice) from which an object counts as represented")
    alpha_coefficients: float = Field(default=0.2, ge=0, description="weight of the mean absolute coefficient")
    alpha_base: float = Field(default=0.1, ge=0, description="weight of the mean absolute new code")
    beta: float = Field(default=0.04, ge=0, description="weight of the memory term; 0 lets the network forget")
    batch: int = Field(default=16, ge=1, description="images in a batch")
    reid_batch: int = Field(default=64, ge=1, description="images in a batch of re-identification")
    val_share: float = Field(default=0.1, gt=0, le=1, description="share of images held out; 1 = score the training images")
    max_images: int = Field(default=2500, ge=1, description="images used of an object at most")
    express_lr: float = Field(default=1e-4, gt=0, description="learning rate of coefficients")
    express_epochs: int = Field(default=200, ge=1, description="epochs of a coefficient fit at most")
    express_patience: int = Field(default=5, ge=1, description="epochs without a better one that end the first check")
    base_lr: float = Field(default=1e-4, gt=0, description="learning rate of a new code and the hypernetwork")
    base_epochs: int = Field(default=200, ge=1, description="epochs of a new base at most")
    base_patience: int = Field(default=5, ge=1, description="epochs without a better one that end it and the second check")
    clip_value: float | None = Field(default=None, gt=0, description="clip gradient values to +- this; unset as published")
    dropout: Dropout = Field(default="always", description="always: also while scoring, as published; train: not then; never")
    keep: Literal["best", "last"] = Field(default="best", description="epoch whose network is kept; the original keeps the last")
    partial_batches: Literal["keep", "drop"] = Field(
        default="keep", description="keep: small objects get smaller batches; drop: as the original, which discards them"
    )
    seed: int = Field(default=0, ge=0, description="of everything random")

    def coefficient_fit(self, *, second: bool) -> FitOptions:
        """Return the options of the first or the second check."""
        return FitOptions(
            lr=self.express_lr,
            epochs=self.express_epochs,
            patience=self.base_patience if second else self.express_patience,
            l1=self.alpha_coefficients,
            **self._shared(),
        )

    def base_fit(self) -> FitOptions:
        """Return the options of learning a new base."""
        return FitOptions(
            lr=self.base_lr,
            epochs=self.base_epochs,
            patience=self.base_patience,
            l1=self.alpha_base,
            memory=self.beta,
            **self._shared(),
        )

    def _shared(self) -> dict[str, Any]:
        names = ("batch", "val_share", "max_images", "clip_value", "keep", "partial_batches")
        return {name: getattr(self, name) for name in names}


def published_options(dataset: str) -> PursuitOptions:
    """Return the published values for a data set: `iThor`, `DAVIS`, `CO3D`; others run like DAVIS.

    >>> published_options("CO3D").batch, published_options("iThor").val_share
    (8, 0.1)
    """
    if dataset == "iThor":
        return PursuitOptions()
    batch = 8 if dataset == "CO3D" else 16
    return PursuitOptions(batch=batch, val_share=1.0, base_epochs=140, base_patience=30)


TINY = PursuitOptions(
    batch=8,
    val_share=1.0,
    express_lr=5e-3,
    express_epochs=10,
    express_patience=3,
    base_lr=4e-4,
    base_epochs=14,
    base_patience=5,
    dropout="train",
)
"""For 64-pixel images and the tiny preset (spec section 9).

Objects of the drawn stream often reach the threshold only just. With dropout while scoring and few pictures scored, whether such
an object is accepted, and recognised when it is met again, is left to chance.
"""
