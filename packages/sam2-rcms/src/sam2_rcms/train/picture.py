"""Pictures of a training clip for TensorBoard: frames with the truth and the best masks painted in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sam2_rcms.train.config import NormaliseStep
from sam2_rcms.train.dataset import ClipBatch
from sam2_rcms.train.forward import ClipOutput
from vos_core.training.logging import PictureGrid, picture_grid

FRAMES = 8
"""Frames of a picture at most."""


@torch.no_grad()
def clip_pictures(batch: ClipBatch, output: ClipOutput) -> Mapping[str, PictureGrid]:
    """Return a picture of the batch's first object: its frames, the truth in green, the prediction in red."""
    mean, std = NormaliseStep().mean, NormaliseStep().std
    clip, frames = int(batch.video[0]), min(FRAMES, batch.images.shape[1])
    rows: list[list[npt.NDArray[np.uint8]]] = [[], [], []]
    for t in range(frames):
        image = batch.images[clip, t].float().cpu() * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
        rgb = (image.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
        found = output.steps[t][-1]
        best = found.masks[0, int(found.ious[0].argmax())] > 0
        for row, picture in zip(rows, (rgb, _painted(rgb, batch.masks[t, 0], 1), _painted(rgb, best, 0)), strict=True):
            row.append(np.ascontiguousarray(picture[::2, ::2]))
    return {"clip": picture_grid(rows)}


def _painted(rgb: npt.NDArray[np.uint8], mask: Tensor, channel: int) -> npt.NDArray[np.uint8]:
    picture = rgb.copy()
    where = mask.cpu().numpy()
    picture[where] //= 2
    picture[where, channel] += 127
    return picture
