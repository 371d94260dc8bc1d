"""Scores of the method on batches of soft masks (spec 3.4): Dice, pooled Jaccard, the balance of a batch, the overlap loss.

Predictions are binary or probabilities, truth lies in [0, 1] and is soft at borders that a resize blurred. All tensors have the
images on axis 0. J and F of label maps at full size are `vos_core.metrics`' affair.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMOOTH = 1e-4


def dice_per_image(prediction: Tensor, truth: Tensor) -> Tensor:
    """Return the Dice score of each image, `(B,)`; 1 where both are empty.

    >>> dice_per_image(torch.ones(2, 1, 4, 4), torch.ones(2, 1, 4, 4)).tolist()
    [1.0, 1.0]
    """
    p, g = _flat(prediction), _flat(truth)
    return (2 * (p * g).sum(1) + SMOOTH) / (p.sum(1) + g.sum(1) + SMOOTH)


def dice(prediction: Tensor, truth: Tensor) -> Tensor:
    """Return the mean Dice score of a batch, a scalar."""
    return dice_per_image(prediction, truth).mean()


def jaccard_pooled(prediction: Tensor, truth: Tensor) -> Tensor:
    """Return intersection over union of a whole batch, a scalar; any value above 0 is foreground; 1 where both are empty.

    Pooling over the batch is the original's `iou`: large objects weigh more than in a mean over images.
    """
    p, g = prediction.bool(), truth.bool()
    union = (p | g).sum().double()
    return torch.where(union > 0, (p & g).sum().double() / union.clamp(min=1), 1.0)


def jaccard_per_image(prediction: Tensor, truth: Tensor) -> Tensor:
    """Return intersection over union of each image, `(B,)`; otherwise as `jaccard_pooled`."""
    return torch.stack([jaccard_pooled(p, g) for p, g in zip(prediction, truth, strict=True)])


def positive_weight(truth: Tensor) -> Tensor:
    """Return zeros / non-zeros of the masks of a batch, a float64 scalar: the positive weight of the loss; 1 without object.

    Soft pixels count as non-zero.
    """
    positive = torch.count_nonzero(truth).double()
    return torch.where(positive > 0, (truth.numel() - positive) / positive.clamp(min=1), 1.0)


def overlap_loss(probability: Tensor, truth: Tensor) -> Tensor:
    """Return the mean over images of |1 - overlap / (sum of both)|, a scalar.

    The overlap is not taken off the denominator, so a perfect mask gives about 0.5: that is how the original defines it.
    """
    p, g = _flat(probability), _flat(truth)
    return (1 - ((p * g).sum(1) + SMOOTH) / (p.sum(1) + g.sum(1) + SMOOTH)).abs().mean()


def _flat(images: Tensor) -> Tensor:
    return images.reshape(len(images), -1).float()
