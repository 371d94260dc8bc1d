"""One optimisation step, and one evaluation, of any network on the images of one object (spec section 4.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from object_pursuit.fit.options import FitOptions
from object_pursuit.fit.rehearsal import Rehearsal
from object_pursuit.model import CodeNetwork, Coeffnet, Singlenet
from object_pursuit.quality import batch_quality, positive_weight
from object_pursuit.samples import Samples
from vos_core.contract import Precision
from vos_core.errors import UsageError, VosError
from vos_core.training.loop import autocast
from vos_core.training.optim import build_optimizer, parameter_groups

WEIGHT_DECAY = 1e-7
EncoderFunction = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images to (high, low) features."""


@dataclass(frozen=True, slots=True)
class StepFigures:
    """Of one step: the segmentation loss, the weight of its positive class, the memory term (weighted)."""

    loss: float
    positive_weight: float
    memory: float = 0.0


def rmsprop(module: nn.Module, *, lr: float) -> torch.optim.Optimizer:
    """Return the optimiser of every stage over the parameters that need gradients."""
    groups = parameter_groups(module.named_parameters(), lr=lr, weight_decay=WEIGHT_DECAY)
    # Networks here have hundreds of small tensors: stepped together, they take the same values in less time.
    return build_optimizer("rmsprop", groups, alpha=0.99, eps=1e-8, momentum=0.9, foreach=True)


def segmentation_loss(logits: Tensor, masks: Tensor, *, weight: float | None = None) -> Tensor:
    """Return the mean binary cross entropy with logits; `weight` multiplies the positive class."""
    positive = None if weight is None else torch.tensor(weight, dtype=logits.dtype, device=logits.device)
    return F.binary_cross_entropy_with_logits(logits, masks, pos_weight=positive)


class Fitter:
    """A network and its optimiser.

    The network is put in training mode: the encoder's norms use batch statistics even where it is frozen, as the published
    weights need.

    Args:
        model: returns logits `(B, 1, H, W)` of images; what needs no gradient stays as it is.
        options: of the fit.
        rehearsal: remembered codes, with a network whose hypernetwork is trained.
        device: where it computes; the model is there already.
        precision: of the segmentation; the memory term is always float32, since its targets are.

    Raises:
        UsageError: fp16, which would need its losses scaled.
    """

    def __init__(
        self,
        model: nn.Module,
        options: FitOptions,
        *,
        rehearsal: Rehearsal | None = None,
        device: str = "cpu",
        precision: Precision = "fp32",
    ) -> None:
        if precision == "fp16":
            raise UsageError("fits in fp16 would need their losses scaled", fix="Use --precision bf16 or fp32")
        self.model, self.options, self.rehearsal = model, options, rehearsal
        self.device, self.precision = torch.device(device), precision
        self.optimizer = rmsprop(model, lr=options.lr)
        self.model.train()

    def step(self, samples: Samples) -> StepFigures:
        """Take one step; gradients (after clipping) stay in the parameters until the next one.

        Raises:
            VosError: the loss is not finite.
        """
        samples = samples.to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        weight = positive_weight(samples.masks) if self.options.positive_weight == "batch" else None
        with autocast(self.precision, self.device):
            logits = self.model(samples.images)
        loss = segmentation_loss(logits.float(), samples.masks, weight=weight)
        if not math.isfinite(float(loss.detach())):
            raise VosError(f"the loss of a fit is {float(loss.detach())}", fix="Lower the learning rate or use --precision fp32")
        (loss + self._regulariser()).backward()  # type: ignore[no-untyped-call]
        remembered = 0.0
        if self.rehearsal is not None and len(self.rehearsal) and self.options.memory:
            assert isinstance(self.model, CodeNetwork)
            remembered = self.rehearsal.backward(self.model.hypernet, weight=self.options.memory)
        if self.options.clip_value is not None:
            nn.utils.clip_grad_value_(self.model.parameters(), self.options.clip_value)
        self.optimizer.step()
        return StepFigures(float(loss.detach()), 1.0 if weight is None else weight, remembered)

    def evaluate(self, batches: Iterable[Samples], *, encoders: Iterable[EncoderFunction | None] | None = None) -> list[float]:
        """Return the quality of each batch, with the weights generated once.

        Args:
            batches: to score.
            encoders: per batch what to use instead of the encoder (features that are known already).
        """
        predict = predictor(self.model, precision=self.precision, device=self.device)
        scores = []
        given = iter(encoders) if encoders is not None else None
        for batch in batches:
            batch = batch.to(self.device)
            logits = predict(batch.images, next(given) if given is not None else None)
            scores.append(batch_quality(torch.sigmoid(logits) > 0.5, batch.masks, metric=self.options.metric))
        return scores

    def _regulariser(self) -> Tensor | float:
        if self.options.l1 and isinstance(self.model, (Singlenet, Coeffnet)):
            own = self.model.z if isinstance(self.model, Singlenet) else self.model.coeffs
            return self.options.l1 * own.abs().mean()
        return 0.0


@torch.no_grad()
def predictor(
    model: nn.Module, *, precision: Precision = "fp32", device: torch.device | None = None
) -> Callable[[Tensor, EncoderFunction | None], Tensor]:
    """Return a function `(images, encoder) -> logits` that generates the weights once; `encoder` replaces the model's."""
    place = torch.device("cpu") if device is None else device
    with autocast(precision, place):
        weights = model.hypernet(model.code()) if isinstance(model, CodeNetwork) else None

    @torch.no_grad()
    def predict(images: Tensor, encoder: EncoderFunction | None = None) -> Tensor:
        with autocast(precision, place):
            if weights is None:
                return model(images).float()
            assert isinstance(model, CodeNetwork)
            return model.run(images, weights, encoder=encoder, scoring=True).logits.float()

    return predict
