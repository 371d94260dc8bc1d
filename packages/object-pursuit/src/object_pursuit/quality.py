"""How good a mask is, the ways the method's decisions count it (spec section 3.4). Functional, on torch tensors."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Metric = Literal["dice", "jaccard_pooled"]
_SMOOTH = 1e-4


def dice(prediction: Tensor, truth: Tensor) -> Tensor:
    """Return the Dice score of each image, float32 `(B,)` 0-1; 1 where both are empty.

    Args:
        prediction: `(B, 1, H, W)`, 0 or 1.
        truth: same shape, 0-1; soft borders count as they are.
    """
    p, g = prediction.float().flatten(1), truth.float().flatten(1)
    return (2 * (p * g).sum(1) + _SMOOTH) / (p.sum(1) + g.sum(1) + _SMOOTH)


def jaccard(prediction: Tensor, truth: Tensor) -> Tensor:
    """Return the overlap of each image, float32 `(B,)` 0-1; any soft value above 0 is foreground; 1 where both are empty."""
    p, g = prediction.bool().flatten(1), truth.bool().flatten(1)
    union = (p | g).sum(1)
    return torch.where(union > 0, (p & g).sum(1) / union.clamp(min=1), torch.ones_like(union, dtype=torch.float32))


def jaccard_pooled(prediction: Tensor, truth: Tensor) -> Tensor:
    """Return the overlap pooled over a batch, scalar 0-1: sum of intersections by sum of unions; 1 for an empty batch."""
    p, g = prediction.bool(), truth.bool()
    union = (p | g).sum()
    return (p & g).sum() / union if union > 0 else torch.ones(())


def positive_weight(masks: Tensor) -> float:
    """Return zeros per nonzero over a batch of masks, the weight of the positive class; soft pixels are nonzero; 1 if none."""
    positive = int(torch.count_nonzero(masks))
    return (masks.numel() - positive) / positive if positive else 1.0


def iou_loss(prediction: Tensor, truth: Tensor) -> Tensor:
    """Return mean |1 - (Σpg + s) / (Σp + Σg + s)|: the denominator keeps the overlap, so a perfect mask gives about 0.5."""
    p, g = prediction.flatten(1), truth.flatten(1)
    return (1 - ((p * g).sum(1) + _SMOOTH) / (p.sum(1) + g.sum(1) + _SMOOTH)).abs().mean()


def batch_quality(prediction: Tensor, truth: Tensor, *, metric: Metric) -> float:
    """Return a batch's score: the mean Dice of its images, or their pooled overlap."""
    return float(dice(prediction, truth).mean() if metric == "dice" else jaccard_pooled(prediction, truth))
