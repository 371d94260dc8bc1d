"""What a training run shows of itself: how well masks overlap with the truth, and pictures of clips."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rmem_deaot.train.samples import ClipBatch
from vos_core.io.palette import AOT_PALETTE
from vos_core.training.logging import PictureGrid, picture_grid
from vos_core.types import VOID


@torch.no_grad()
def mean_overlap(logits: Tensor, batch: ClipBatch) -> Tensor:
    """Return the mean intersection over union of objects in the frames after the reference, at a quarter of the size.

    Args:
        logits: `(L, B, 11, H / 4, W / 4)`.
        batch: with the labels.
    """
    found = logits[1:].argmax(2)
    truth = F.interpolate(batch.labels[1:].float(), size=found.shape[-2:], mode="nearest").long()
    ids = torch.arange(1, logits.shape[2], device=logits.device).view(-1, 1, 1, 1, 1)
    ids = ids * (ids <= torch.tensor(batch.objects, device=logits.device).view(1, 1, -1, 1, 1))
    valid = (truth != VOID) & (ids > 0)
    a, b = (found == ids) & valid, (truth == ids) & valid
    either = (a | b).sum((3, 4))
    there = either > 0
    overlap = (a & b).sum((3, 4)) / either.clamp(min=1)
    return (overlap * there).sum() / there.sum().clamp(min=1)


@torch.no_grad()
def clip_pictures(logits: Tensor, batch: ClipBatch, *, rows: int = 4) -> dict[str, PictureGrid]:
    """Return a grid, three rows per clip: its frames, their true masks, the network's."""
    grid = []
    size = batch.labels.shape[-2:]
    for b in range(min(rows, batch.labels.shape[1])):
        found = F.interpolate(logits[:, b].float(), size=size, mode="bilinear").argmax(1).cpu().numpy()
        grid.append([np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()) for image in batch.images[:, b]])
        grid.append([AOT_PALETTE[label] for label in batch.labels[:, b].cpu().numpy()])
        grid.append([AOT_PALETTE[label.astype(np.uint8)] for label in found])
    return {"clips": picture_grid(grid)}
