"""The loss of one batch of triplets: two predictions, bootstrapped cross-entropy each, and how well the masks overlap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from stcn_ttt.adapt.backbone import StcnBackbone
from stcn_ttt.adapt.objective import Sequences, run_forward
from stcn_ttt.model import STCN, Segmentation
from stcn_ttt.model.network import sum_of_others
from stcn_ttt.prepare import MEAN, STD
from vos_core.training.logging import PictureGrid, picture_grid
from vos_core.training.loop import StepLoss
from vos_core.training.losses import bootstrap_fraction, hardest_cross_entropy


@dataclass(frozen=True, slots=True)
class Triplets:
    """A batch of three-frame samples.

    Args:
        images: normalised, `(B, 3, 3, H, W)`.
        classes: int64 `(B, 3, H, W)`: 0 background, 1 and 2 the objects.
        selector: `(B, 2)`, which of the two slots hold an object; `(B, 1)` in the single-object stage.
    """

    images: Tensor
    classes: Tensor
    selector: Tensor

    def to(self, device: torch.device) -> Triplets:
        """Return the batch on `device`."""
        return Triplets(*(part.to(device, non_blocking=True) for part in (self.images, self.classes, self.selector)))

    def masks(self, frame: int) -> Tensor:
        """Return the objects' hard masks of a frame, `(B, slots, H, W)`."""
        slots = torch.arange(1, self.selector.shape[1] + 1, device=self.classes.device)
        return (self.classes[:, frame, None] == slots[:, None, None]).float()


class TripletPass(nn.Module):
    """The network's two predictions for a triplet: frame 1 from frame 0, frame 2 from both.

    Args:
        network: the weights; a module of its own around them, so that several ranks can wrap the call.
    """

    def __init__(self, network: STCN) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Triplets) -> list[Segmentation]:
        """Return the predictions of frames 1 and 2."""
        masks = batch.masks(0)
        others = sum_of_others(masks)
        sequences = Sequences(batch.images, masks, others, batch.selector, batch.classes[:, 0])
        return run_forward(StcnBackbone(self.network), sequences).forward


def triplet_loss(model: nn.Module, batch: Triplets, step: int) -> StepLoss:
    """Return the sum over both predictions of the bootstrapped cross-entropy; logged with each part and the IoU.

    A sample with one object is scored on the channels of background and object alone.

    Args:
        model: a `TripletPass`, maybe wrapped.
        batch: on the model's device.
        step: of this stage; sets the share of hardest pixels.
    """
    fraction = bootstrap_fraction(step)
    predictions = model(batch)
    parts = [bootstrapped(one.logits, batch.classes[:, t + 1], batch.selector, fraction) for t, one in enumerate(predictions)]
    values: dict[str, float | Tensor] = {"loss_1": parts[0].detach(), "loss_2": parts[1].detach(), "p": fraction}
    counts = overlap_counts(predictions, batch)
    for name in ("", "sec_"):
        if f"{name}i" in counts:
            values[f"{name}iou"] = (counts[f"{name}i"] + 1) / (counts[f"{name}u"] + 1)
    return StepLoss(parts[0] + parts[1], values, lambda: pictures(batch, predictions))


def bootstrapped(logits: Tensor, classes: Tensor, selector: Tensor, fraction: float) -> Tensor:
    """Return the batch mean of each sample's cross-entropy over its hardest pixels.

    Args:
        logits: `(B, slots + 1, H, W)`.
        classes: `(B, H, W)`.
        selector: `(B, slots)`.
        fraction: share of the pixels that count.
    """
    losses = []
    for one, target, chosen in zip(logits, classes, selector, strict=True):
        channels = 1 + (int((chosen > 0.5).sum()) if len(chosen) > 1 else 1)
        losses.append(hardest_cross_entropy(one[None, : max(2, channels)], target[None], fraction=fraction))
    return torch.cat(losses).mean()


@torch.no_grad()
def overlap_counts(predictions: list[Segmentation], batch: Triplets) -> Mapping[str, Tensor]:
    """Return intersection and union in pixels of soft masks above 0.5 with the truth, over both frames: i, u, sec_i, sec_u."""
    counts: dict[str, Tensor] = {}
    for t, one in enumerate(predictions):
        truth = batch.masks(t + 1) > 0.5
        found = one.probs[:, 1:] > 0.5
        for slot, name in enumerate(("", "sec_")[: truth.shape[1]]):
            both, either = (found[:, slot] & truth[:, slot]).sum(), (found[:, slot] | truth[:, slot]).sum()
            counts[f"{name}i"] = counts.get(f"{name}i", 0) + both
            counts[f"{name}u"] = counts.get(f"{name}u", 0) + either
    return counts


@torch.no_grad()
def pictures(batch: Triplets, predictions: list[Segmentation], *, rows: int = 4) -> dict[str, PictureGrid]:
    """Return a grid: per sample the three frames, then truth and prediction of frames 1 and 2."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    grid = []
    for b in range(min(rows, batch.images.shape[0])):
        frames = [
            ((image.float().cpu() * std + mean).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy() for image in batch.images[b]
        ]
        maps = []
        for t, one in enumerate(predictions):
            maps += [batch.classes[b, t + 1].cpu().numpy(), one.probs[b].argmax(0).cpu().numpy()]
        grid.append(frames + [np.repeat((labels * 100).astype(np.uint8)[..., None], 3, 2) for labels in maps])
    return {"triplets": picture_grid(grid)}
