"""Segmentation losses that more than one recipe uses. All take logits and return a scalar or one value per sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def hardest_cross_entropy(logits: Tensor, target: Tensor, *, fraction: float, ignore: int | None = None) -> Tensor:
    """Return the mean cross-entropy over the hardest pixels of each sample.

    Args:
        logits: `(B, C, H, W)`.
        target: int64 `(B, H, W)` of classes.
        fraction: share of the pixels kept, 0-1; `int(H * W * fraction)` of them, 1 = plain mean.
        ignore: class whose pixels cost 0 but still count (AOT section 4.3).

    Returns:
        `(B,)`.
    """
    cost = F.cross_entropy(logits, target, reduction="none", ignore_index=-100 if ignore is None else ignore).flatten(1)
    if fraction >= 1:
        return cost.mean(1)
    return cost.topk(int(cost.shape[1] * fraction), dim=1, sorted=False).values.mean(1)


def bootstrap_fraction(step: int, *, start: int = 20_000, end: int = 70_000, kept: float = 0.15) -> float:
    """Return the share of pixels that count at `step`: all before `start`, then linearly down to `kept` at `end`.

    Source: bootstrapped cross-entropy of STCN's offline training.

    >>> bootstrap_fraction(0), bootstrap_fraction(45_000), bootstrap_fraction(80_000)
    (1.0, 0.575, 0.15)
    """
    if step < start:
        return 1.0
    return kept if step > end else kept + (1 - kept) * (end - step) / (end - start)


def soft_jaccard(logits: Tensor, target: Tensor, *, ignore: int | None = None, eps: float = 1e-6) -> Tensor:
    """Return `1 - soft IoU` averaged over the classes present in each sample's target.

    Args:
        logits: `(B, C, H, W)`.
        target: int64 `(B, H, W)`.
        ignore: class whose pixels are left out.
        eps: added to the union.

    Returns:
        `(B,)`; 0 for a sample without any valid pixel.
    """
    valid = torch.ones_like(target, dtype=torch.bool) if ignore is None else target != ignore
    probability = logits.softmax(1).flatten(2) * valid.flatten(1)[:, None]
    truth = F.one_hot(target.masked_fill(~valid, 0), logits.shape[1]).movedim(-1, 1).flatten(2)
    truth = truth.to(probability.dtype) * valid.flatten(1)[:, None]
    both = (probability * truth).sum(2)
    union = probability.sum(2) + truth.sum(2) - both + eps
    present = (truth.sum(2) > 0).to(probability.dtype)
    return ((1 - both / union) * present).sum(1) / present.sum(1).clamp(min=1)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """Return `1 - (2 * sum(p * t) + 1) / (sum(p) + sum(t) + 1)` of binary masks, over all but the first dimension: `(B,)`."""
    probability, truth = logits.sigmoid().flatten(1), target.to(logits.dtype).flatten(1)
    return 1 - (2 * (probability * truth).sum(1) + 1) / (probability.sum(1) + truth.sum(1) + 1)
